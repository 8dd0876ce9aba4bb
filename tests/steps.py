"""The steps of tests/run, one after another; each says what it ran, how long it took and what failed.

    tests/run [--long] [--cuda] [--only STEP]... [--list]

--only takes every step whose name begins with STEP, and builds what it needs. --long: the same tests with more
seeds and more steps, and ten minutes of coverage-guided fuzzing per parser. --cuda: tests/run has fetched
CUDA's toolkit before.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
VENV = BUILD / "venv"
MODEL = BUILD / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
VENV_PACKAGES = ["tokenizers==0.23.3", "gguf==0.19.0"]
JOBS = str(os.cpu_count() or 2)
# Sanitized builds are slow: they run what touches most code. Names are parts of test names.
E2E_DEV = ["test_cache", "test_requests", "test_serve", "test_bench_serve", "granite_float32", "hybrid_bfloat16",
           "llama_bias_float32", "same_bits"]
E2E_TSAN = ["test_cache", "granite_float32", "same_bits", "test_serve.Adapters",
            "test_serve.Ending", "test_serve.SameAnswers", "test_serve_tenants", "test_serve_lazy", "test_serve_log",
            "test_serve_http", "test_serve_kv_events", "test_serve_load", "test_serve_streams"]
TSAN_OPTIONS = f"ignore_noninstrumented_modules=1 suppressions={ROOT / 'tests/support/tsan.supp'}"
E2E_PORTABLE = ["test_golden", "test_cache", "same_bits", "SameAnswers"]


class Outcome:
    def __init__(self, passed, failed, text=""):
        self.passed, self.failed, self.text = passed, failed, text


def run(command):
    """-> (exit status, output)"""
    done = subprocess.run([str(c) for c in command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    return done.returncode, done.stdout


def as_one(status, output, tail=60):
    return Outcome(1, 0) if status == 0 else Outcome(0, 1, "\n".join(output.splitlines()[-tail:]))


def build(preset):
    status, output = run(["cmake", "--preset", preset])
    if status == 0:
        status, output = run(["cmake", "--build", "--preset", preset, "-j", JOBS])
    return as_one(status, output)


def ctest(preset):
    status, output = run(["ctest", "--preset", preset, "-j", JOBS, "--no-tests=error"])
    found = re.search(r"(\d+) tests? failed out of (\d+)", output)
    if not found:
        return as_one(status or 1, output)
    failed, total = map(int, found.groups())
    return Outcome(total - failed, failed, output if failed else "")


def counted(command):
    """A program that ends with "N passed, N failed"."""
    status, output = run(command)
    found = re.findall(r"(\d+) passed, (\d+) failed", output)
    if not found:
        return as_one(status or 1, output)
    passed, failed = map(int, found[-1])
    telling = "\n".join(line for line in output.splitlines() if not line.startswith("ok "))
    return Outcome(passed, failed or int(status != 0), telling)


def e2e(preset, names, seeds, requests):
    only = [x for n in names for x in ("--only", n)]
    return counted(["python3", "tests/e2e/run.py", "--build", BUILD / preset, "--seeds", seeds,
                    "--requests", requests, *only])


def fetch_model():
    return as_one(*run(["python3", "bench/fetch_model"]))


def tokenizers(long):
    """The comparison with Hugging Face's tokenizers library, which gets a virtual environment of its own."""
    ready = VENV / "ready"
    if not ready.exists() or ready.read_text() != " ".join(VENV_PACKAGES):
        status, output = run(["python3", "-m", "venv", "--clear", VENV])
        if status == 0:
            status, output = run([VENV / "bin/pip", "install", "--quiet", *VENV_PACKAGES])
        if status:
            return as_one(status, output)
        ready.write_text(" ".join(VENV_PACKAGES))
    more = ["--cases", 20000, "--variants", 2000] if long else []
    # One test, thousands of strings.
    return as_one(*run([VENV / "bin/python", "tests/runtime/tokenizer/compare_hf.py", BUILD / "release/tok_cli",
                        "--gguf", MODEL, *more]))


def simulate():
    return as_one(*run([BUILD / "release/sim_engine", "--steps", 50_000_000, "--seed", int(time.time())]))


def fuzz(target, seconds):
    """libFuzzer on a copy of the corpus: what it finds is for a person to look at and commit small."""
    corpus = BUILD / "fuzz-corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    return as_one(*run([BUILD / "fuzz" / target, f"-max_total_time={seconds}", "-print_final_stats=1",
                        "-rss_limit_mb=4096", f"-artifact_prefix={corpus}-", corpus, ROOT / "tests/corpus" / target]))


def fuzz_targets():
    return sorted(p.name for p in (ROOT / "tests/corpus").iterdir() if p.is_dir())


def all_steps(long):
    """name -> (steps that it needs, what it does)"""
    seeds = {"release": 5000, "dev": 300, "tsan": 100, "portable": 500} if long else \
            {"release": 200, "dev": 12, "tsan": 6, "portable": 20}
    requests = {p: n * (10 if long else 1) for p, n in
                {"release": 10000, "dev": 1000, "tsan": 500, "portable": 0}.items()}
    subsets = {"release": [], "dev": E2E_DEV, "tsan": E2E_TSAN, "portable": E2E_PORTABLE}
    steps = {"lint": ((), lambda: counted(["python3", "tests/lint/lint.py"])),
             "model": ((), fetch_model)}
    for preset in subsets:
        steps[f"build-{preset}"] = ((), lambda p=preset: build(p))
        steps[f"ctest-{preset}"] = ((f"build-{preset}",), lambda p=preset: ctest(p))
        needs = (f"build-{preset}",) if preset in ("dev", "tsan") else (f"build-{preset}", "model")
        steps[f"e2e-{preset}"] = (needs, lambda p=preset: e2e(p, subsets[p], seeds[p], requests[p]))
    steps["tokenizers"] = (("build-release", "model"), lambda: tokenizers(long))
    if long:
        steps["simulation"] = (("build-release",), simulate)
        steps["build-fuzz"] = ((), lambda: build("fuzz"))
        for target in fuzz_targets():
            steps[f"fuzz-{target}"] = (("build-fuzz",), lambda t=target: fuzz(t, 600))
    return steps


def chosen_steps(steps, only):
    wanted = [n for n in steps if not only or any(n.startswith(o) for o in only)]
    with_needs = {n for name in wanted for n in (name, *steps[name][0])}
    return [n for n in steps if n in with_needs]


def main():
    parser = argparse.ArgumentParser(prog="tests/run", description="Builds Mica and runs its tests.")
    parser.add_argument("--long", action="store_true", help="more seeds, more steps, coverage-guided fuzzing")
    parser.add_argument("--cuda", action="store_true", help="fetch CUDA's compiler and libraries first (1.1 GB)")
    parser.add_argument("--only", action="append", metavar="STEP", help="steps whose names begin so; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the steps and stop")
    args = parser.parse_args()
    steps = all_steps(args.long)
    names = chosen_steps(steps, args.only)
    os.environ.setdefault("TSAN_OPTIONS", TSAN_OPTIONS)
    if args.list or not names:
        print("\n".join(steps))
        return not args.list
    started, passed, failed, broken = time.monotonic(), 0, 0, set()
    for name in names:
        needs, action = steps[name]
        print(f"== {name}", flush=True)
        begun = time.monotonic()
        if broken.intersection(needs):
            outcome = Outcome(0, 1, "not run: what it needs has failed")
        else:
            outcome = action()
        if outcome.failed:
            broken.add(name)
            print(outcome.text.rstrip())
        passed, failed = passed + outcome.passed, failed + outcome.failed
        print(f"   {outcome.passed} passed, {outcome.failed} failed, {time.monotonic() - begun:.0f} s", flush=True)
    kind = "long run" if args.long else "run"
    print(f"{kind} of {time.monotonic() - started:.0f} s")
    print(f"{passed} passed, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
