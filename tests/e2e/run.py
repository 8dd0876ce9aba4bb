"""Runs the end-to-end tests against one build.

    python3 tests/e2e/run.py [--build DIR] [--only TEXT]... [--seeds N] [--first SEED] [--requests N]

Prints a line per test and ends with "N passed, N failed". --only takes tests whose full name contains the text.
"""
import argparse
import importlib.util
import os
import pathlib
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=str(HERE.parents[1] / "build/release"))
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--seeds", default="200", help="of the same-bits test")
    parser.add_argument("--first", default="0", help="its first seed")
    parser.add_argument("--requests", default="10000", help="of the load test")
    args = parser.parse_args()
    os.environ.update(MICA_BUILD=args.build, MICA_SAME_BITS_SEEDS=args.seeds, MICA_SAME_BITS_FIRST=args.first,
                      MICA_LOAD_REQUESTS=args.requests)
    suite = unittest.defaultTestLoader.discover(str(HERE), "test_*.py")
    tests = [t for t in flatten(suite) if not args.only or any(o in name_of(t) for o in args.only)]
    result = Lines()
    unittest.TestSuite(tests).run(result)
    print(f"{result.passed} passed, {result.failed} failed, {result.skipped_count} skipped")
    return bool(result.failed) or not result.passed


if __name__ == "__main__":
    sys.exit(main())
