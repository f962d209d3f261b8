"""Tiers of tests: a package of slow tests runs only with `--all`, or if it is named.

Its `__init__.py` says:

    load_tests = tiers.slow(__name__, __path__)

unittest's discovery calls that, so `python -m unittest` leaves out the package as well. Either way the run ends with a
line that says what it left out.
"""

import atexit
import sys
import unittest
from collections.abc import Callable, Sequence

from tests.harness.results import PROGRAM

everything = False  # the runner sets it for `--all`
named: set[str] = set()  # packages that the command line names
left_out: list[str] = []

LoadTests = Callable[[unittest.TestLoader, unittest.TestSuite, str | None], unittest.TestSuite]


def slow(package: str, path: Sequence[str]) -> LoadTests:
    """Return a `load_tests` function for a package whose tests run only with `--all`."""

    def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
        if everything or any(f"{package}.".startswith(f"{name}.") for name in named):
            for folder in path:
                tests.addTests(loader.discover(folder, pattern or "test*.py"))
        else:
            if not left_out:
                atexit.register(_say)
            left_out.append(package)
        return tests

    return load_tests


def _say() -> None:
    packages = ", ".join(package.replace(".", "/") for package in left_out)
    print(f"not run: {packages} ({PROGRAM} --all runs everything)", file=sys.stderr)
