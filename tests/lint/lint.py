"""What a reader relies on, checked: who includes whom, banned calls, sizes, links, headers that stand alone.

    python3 tests/lint/lint.py [--only CHECK]...      ends with "N passed, N failed"

Reads the files that git knows or would add. The include table is the one in README.md.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = (".c", ".h")
KERNELS = (".cu", ".cuh", ".cpp")
TEXT = (*CODE, *KERNELS, ".py", ".md", ".txt", ".json", ".sh", ".in", ".cmake")
LINE_MAX = {".c": 110, ".h": 110, ".cu": 110, ".cuh": 110, ".cpp": 110, ".py": 120}
FILE_LINES_MAX = 600
FILE_BYTES_MAX = 2 << 20
GENERATED = {"runtime/tokenizer/unicode_tables.c"}   # made by a script that says so on their first line
# What copies without a bound or cannot say that it failed; tests hold their own strings.
UNSAFE = ("strcpy", "strcat", "sprintf", "vsprintf", "gets", "strtok", "atoi", "atol", "atof", "alloca", "system")
# What makes a run unrepeatable.
UNREPEATABLE = ("rand", "srand", "time", "getenv")
# Included by proto/vec.h alone, after what they share.
PARTS = {"proto/vec_portable.h", "proto/vec_avx2.h", "proto/vec_avx512.h"}
SYSTEM_HEADERS = {   # a library and the only folder whose files may include it
    "jansson.h": ("runtime/base", "adapters", "runtime/model", "runtime/tokenizer", "runtime/load", "runtime/cli",
                  "tests"),
    "pcre2.h": ("runtime/tokenizer", "adapters", "tests"),
    "utf8proc.h": ("runtime/tokenizer", "tests"),
}
# It moves: these alone may know it.
GRPC_FILES = ("runtime/server/rpc_core.c", "runtime/server/rpc_tls.h", "runtime/load/rpc_client.c")
ONLY_IN = {"zmq.h": ("runtime/server/kv_publisher.c",),   # a header and the only files that may know it
           "msgpack.h": ("runtime/server/kv_batch.c", "tests/runtime/server/test_kv_batch.c")}
CUDA = ["-isystem", "/usr/local/cuda/include", "-isystem", "build/cuda/nvidia/cu13/include"]
CUDA_HEADERS = re.compile(r"# *include <(cuda|cublas|nccl)|_cuda(_[a-z_]+)?\.h\"")   # headers that need the toolkit's
MESSAGES = re.compile(r"^[a-z_]+\.pb-c\.h$")   # made at build time; whoever speaks the protocol may include them


def tracked():
    """Paths relative to the root: tracked files and those that git does not ignore, as far as they are there."""
    found = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                           capture_output=True, check=False).stdout.decode().split("\0")
    return sorted({f for f in found if f and (ROOT / f).is_file()})


def read(path):
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


def without_comments(text):
    """C text with comments and string literals blanked, lines kept."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def include_table():
    """README.md's table -> {folder: allowed folders and headers}"""
    section = read("README.md").split("## Who may include whom", 1)[1].split("\n## ", 1)[0]
    table = {}
    for row in re.findall(r"^\|(.+?)\|(.+?)\|$", section, flags=re.M):
        folders, allowed = (re.findall(r"`([^`]+)`", cell) for cell in row)
        for folder in folders:
            table[folder] = set(allowed)
    return table


def check_includes(files):
    table = include_table()
    for path in files:
        folder = os.path.dirname(path)
        top = folder.split("/")[0]
        if not path.endswith((*CODE, *KERNELS)) or top in ("tests", "bench"):
            continue
        rules = table.get(folder)
        if rules is None:
            yield f"{path}: folder {folder} is not in README.md's include table"
            continue
        for number, line in enumerate(read(path).splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+(["<])([^">]+)', line)
            if not match:
                continue
            kind, target = match.groups()
            if kind == '"':
                target_folder = os.path.dirname(target)
                if MESSAGES.match(target) and folder in ("runtime/server", "runtime/load"):
                    continue
                if target_folder != folder and target_folder not in rules and target not in rules:
                    yield f"{path}:{number}: {folder} may not include {target}"
                if not (ROOT / target).is_file():
                    yield f"{path}:{number}: {target} is not a path from the root"
            elif target.startswith("grpc/") and path not in GRPC_FILES:
                yield f"{path}:{number}: only {' and '.join(GRPC_FILES)} may include <{target}>"
            elif path not in ONLY_IN.get(target, (path,)):
                yield f"{path}:{number}: only {' and '.join(ONLY_IN[target])} may include <{target}>"
            elif target in SYSTEM_HEADERS and folder not in SYSTEM_HEADERS[target]:
                yield f"{path}:{number}: {folder} may not include <{target}>"


def check_banned_calls(files):
    for path in files:
        if not path.endswith(CODE):
            continue
        names = UNREPEATABLE if path.startswith("tests/") else UNSAFE + UNREPEATABLE
        call = re.compile(r"(?<![\w.>])(" + "|".join(names) + r")\s*\(")
        for number, line in enumerate(without_comments(read(path)).splitlines(), 1):
            for name in call.findall(line):
                yield f"{path}:{number}: {name}() is banned"


def check_built(files):
    lists = " ".join(re.sub(r"#.*", "", read(f)) for f in files if f.endswith(("CMakeLists.txt", ".cmake")))
    words = set(re.findall(r"[\w./${}-]+", lists))
    names = {w.split("/")[-1] for w in words}
    for path in files:
        is_source = path.endswith((".c", ".cu", ".cpp")) and not path.startswith("tests/install/")
        if is_source and os.path.basename(path) not in names:
            yield f"{path} is in no CMakeLists.txt and no .cmake"


def check_text(files):
    for path in files:
        suffix = pathlib.Path(path).suffix
        if path.startswith(("tests/golden/", "tests/corpus/")) and suffix != ".py":
            continue
        if suffix not in TEXT and not is_script(path):
            continue
        lines = read(path).split("\n")
        if path.endswith((*CODE, *KERNELS, ".py")) and len(lines) - 1 > FILE_LINES_MAX and path not in GENERATED:
            yield f"{path} has {len(lines) - 1} lines, at most {FILE_LINES_MAX} are"
        for number, line in enumerate(lines, 1):
            if "\t" in line:
                yield f"{path}:{number}: tab"
            if line != line.rstrip():
                yield f"{path}:{number}: space at the end of the line"
            if len(line) > LINE_MAX.get(suffix, 10 ** 9) and path not in GENERATED:
                yield f"{path}:{number}: {len(line)} characters, at most {LINE_MAX[suffix]} are"
            if re.search(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", line):
                yield f"{path}:{number}: unfinished"


def is_script(path):
    return os.access(ROOT / path, os.X_OK) and "." not in os.path.basename(path)


def check_links(files):
    for path in files:
        if not path.endswith(".md"):
            continue
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(path)):
            if not re.match(r"[a-z]+:", target) and not (ROOT / os.path.dirname(path) / target).exists():
                yield f"{path}: link to {target}, which is not there"


def check_sizes(files):
    for path in files:
        size = (ROOT / path).stat().st_size
        if size > FILE_BYTES_MAX:
            yield f"{path} has {size} bytes, at most {FILE_BYTES_MAX} are"


def compile_alone(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return f"{' '.join(command)}\n{done.stderr[:600]}" if done.returncode else None


def check_headers(files):
    """Each header alone: as C11, and as C++17 where it says extern "C". Parts of kernels need a family's name."""
    flags = subprocess.run(["pkg-config", "--cflags", "jansson", "libpcre2-8", "libxxhash", "libutf8proc",
                            "libprotobuf-c"],
                           capture_output=True, text=True, check=False).stdout.split()
    commands = []
    has_cuda = not compile_alone(["gcc", "-fsyntax-only", *CUDA, "-include", "cuda_runtime_api.h", "-x", "c",
                                  "/dev/null"])
    for path in files:
        if not path.endswith(".h") or path.startswith("tests/") or path in PARTS:
            continue
        text = read(path)
        if CUDA_HEADERS.search(text) and not has_cuda:
            continue
        tail = ["-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-function", "-D_GNU_SOURCE", "-I.", *CUDA, *flags,
                *(["-DRC_KERNELS=portable"] if "RC_KERNELS" in text or "vec.h" in text else []),
                "-include", path, "/dev/null"]
        commands.append(["gcc", "-x", "c", "-std=gnu11", *tail])
        if 'extern "C"' in text:
            commands.append(["g++", "-x", "c++", "-std=c++17", *tail])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield from filter(None, pool.map(compile_alone, commands))


CHECKS = {
    "includes": check_includes, "banned_calls": check_banned_calls, "built": check_built, "text": check_text,
    "links": check_links, "sizes": check_sizes, "headers": check_headers,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(CHECKS))
    args = parser.parse_args()
    files = tracked()
    failed = 0
    for name in args.only or CHECKS:
        found = list(CHECKS[name](files))
        failed += bool(found)
        print(f"{'FAIL' if found else 'ok  '}  lint {name}" + "".join("\n    " + f for f in found), flush=True)
    print(f"{len(args.only or CHECKS) - failed} passed, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
