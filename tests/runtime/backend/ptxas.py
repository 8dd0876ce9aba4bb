#!/usr/bin/env python3
"""What ptxas said of each kernel, against what is recorded: registers, spilled bytes, static shared memory.

    ptxas.py BUILD            fails where a kernel needs more than ptxas.txt says, or the lists differ
    ptxas.py BUILD --record   writes ptxas.txt
"""
import pathlib
import re
import sys

RECORD = pathlib.Path(__file__).with_suffix(".txt")
ENTRY = re.compile(r"Compiling entry function '_Z\d+([a-z]\w*?)' for '(sm_\d+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def plain(mangled, text):
    """The name that the length before it in the mangled one cuts off."""
    length = int(re.search(r"_Z(\d+)" + re.escape(mangled), text).group(1))
    return mangled[:length]


def read(folder):
    """-> {"kernel sm": (registers, spill stores, spill loads, shared bytes)}"""
    found, key, spills = {}, None, (0, 0)
    for file in sorted(folder.glob("*.ptxas")):
        for line in file.read_text().splitlines():
            if entry := ENTRY.search(line):
                key, spills = f"{plain(entry[1], line)} {entry[2]}", (0, 0)
            elif match := SPILLS.search(line):
                spills = (int(match[1]), int(match[2]))
            elif key and (used := USED.search(line)):
                shared = SHARED.search(line)
                found[key] = (int(used[1]), *spills, int(shared[1]) if shared else 0)
                key = None
    return found


def recorded():
    rows = (line.split() for line in RECORD.read_text().splitlines() if line and not line.startswith("#"))
    return {f"{r[0]} {r[1]}": tuple(map(int, r[2:])) for r in rows}


def write(found):
    lines = [f"{key} {' '.join(map(str, found[key]))}" for key in sorted(found)]
    head = "# kernel, architecture, registers, bytes of spill stores and loads, static shared memory; nvcc 13.0"
    RECORD.write_text("\n".join([head, *lines]) + "\n")


def main():
    found = read(pathlib.Path(sys.argv[1]) / "cuda")
    if "--record" in sys.argv:
        write(found)
        return 0
    known = recorded()
    bad = [f"{key}: not recorded" for key in found.keys() - known.keys()]
    bad += [f"{key}: recorded, but not built" for key in known.keys() - found.keys()]
    bad += [f"{key}: {found[key]}, recorded {known[key]}" for key in found.keys() & known.keys()
            if any(a > b for a, b in zip(found[key], known[key]))]
    print("\n".join(sorted(bad)) or f"{len(found)} kernels as recorded")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
