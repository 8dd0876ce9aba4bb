"""Runs the end-to-end tests against one build.

    python3 tests/e2e/run.py [--build DIR] [--only TEXT]... [--jobs N] [--seeds N] [--first SEED] [--requests N]

Prints a line per test and ends with "N passed, N failed". --only takes tests whose full name contains the text.
Classes of tests run side by side, a process each, and their lines come when one has ended; with --jobs 1 all run here.
"""
import argparse
import concurrent.futures
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SYSTEM_PYTHON = "/usr/bin/python3"   # the one that the package python3-grpcio is for
if not importlib.util.find_spec("grpc") and sys.executable != SYSTEM_PYTHON:
    os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, *sys.argv])
sys.path.insert(0, str(HERE))


class Lines(unittest.TestResult):
    """One line a test as it ends, and why it failed at once."""

    def __init__(self):
        super().__init__()
        self.passed = self.failed = self.skipped_count = 0
        self.bad = None

    def startTest(self, test):
        super().startTest(test)
        self.started, self.bad = time.monotonic(), []

    def addFailure(self, test, err):
        text = self._exc_info_to_string(err, test)
        if self.bad is None:  # not of a test: its class could not be set up or torn down
            self.failed += 1
            print(f"FAIL  {name_of(test)}\n    " + text.strip().replace("\n", "\n    "), flush=True)
        else:
            self.bad.append(text)

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err:
            self.bad.append(f"{subtest}\n{self._exc_info_to_string(err, test)}")

    def addSkip(self, test, reason):
        self.skipped_count += 1
        print(f"skip  {name_of(test)}: {reason}", flush=True)
        self.bad = None

    def stopTest(self, test):
        super().stopTest(test)
        if self.bad is None:
            return
        took = time.monotonic() - self.started
        self.passed, self.failed = self.passed + (not self.bad), self.failed + bool(self.bad)
        print(f"{'FAIL' if self.bad else 'ok'}{'' if self.bad else '  '}  {name_of(test)}  {took:.1f} s", flush=True)
        for text in self.bad:
            print("    " + text.strip().replace("\n", "\n    "), flush=True)
        self.bad = None


def name_of(test):
    return test.id()


def flatten(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def discover(only):
    suite = unittest.defaultTestLoader.discover(str(HERE), "test_*.py")
    return [t for t in flatten(suite) if not only or any(o in name_of(t) for o in only)]


def run_here(tests):
    """-> passed, failed, skipped"""
    result = Lines()
    unittest.TestSuite(tests).run(result)
    return result.passed, result.failed, result.skipped_count


def run_apart(names):
    """Named tests in a process of their own -> its lines; passed, failed, skipped."""
    done = subprocess.run([sys.executable, __file__, "--build", os.environ["MICA_BUILD"], *names],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", check=False)
    lines, _, last = done.stdout.rstrip("\n").rpartition("\n")
    counts = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", last)
    if not counts:
        return f"{done.stdout}\nFAIL  {names[0]} and its like: the process ended with {done.returncode}", (0, 1, 0)
    return lines, tuple(map(int, counts.groups()))


def run_side_by_side(tests, jobs):
    """A class stays in one process, since its tests may share what they need. -> passed, failed, skipped"""
    classes = {}
    for test in tests:
        classes.setdefault(name_of(test).rpartition(".")[0], []).append(name_of(test))
    totals = [0, 0, 0]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run_apart, names) for names in classes.values()]):
            lines, counts = future.result()
            print(lines, flush=True)
            totals = [t + c for t, c in zip(totals, counts)]
    return totals


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="tests by their full names, one after another")
    parser.add_argument("--build", default=str(HERE.parents[1] / "build/release"))
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="classes that run side by side")
    parser.add_argument("--seeds", help="of the same-bits test; default 200")
    parser.add_argument("--first", help="its first seed; default 0")
    parser.add_argument("--requests", help="of the load test; default 10000")
    args = parser.parse_args()
    settings = {"MICA_BUILD": args.build, "MICA_SAME_BITS_SEEDS": args.seeds, "MICA_SAME_BITS_FIRST": args.first,
                "MICA_LOAD_REQUESTS": args.requests}
    os.environ.update({name: value for name, value in settings.items() if value is not None})
    tests = list(flatten(unittest.defaultTestLoader.loadTestsFromNames(args.names))) if args.names else \
        discover(args.only)
    passed, failed, skipped = run_here(tests) if args.names or args.jobs == 1 else run_side_by_side(tests, args.jobs)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return bool(failed) or not passed


if __name__ == "__main__":
    sys.exit(main())
