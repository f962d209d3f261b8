"""Tiers of tests: packages whose tests run only with `--all`, or only by name.

The `__init__.py` of such a package says one of these:

    load_tests = tiers.slow(__name__, __path__)
    load_tests = tiers.separate(__name__, __path__, "scripts/test-image")

unittest's discovery calls that, so `python -m unittest` leaves out the package as well. Either way the run ends with a
line that says what it left out.
"""

import atexit
import unittest
from collections.abc import Callable, Sequence

from tests.harness.results import PROGRAM, say

everything = False  # the runner sets it for `--all`
named: set[str] = set()  # packages that the command line names
slow_packages: set[str] = set()
left_out: dict[str, str] = {}  # what runs each package that was left out

LoadTests = Callable[[unittest.TestLoader, unittest.TestSuite, str | None], unittest.TestSuite]


def slow(package: str, path: Sequence[str]) -> LoadTests:
    """Return a `load_tests` function for a package whose tests run with `--all`, or if it or a part of it is named."""
    slow_packages.add(package)
    return _loader(
        package,
        path,
        f"{PROGRAM} --all",
        lambda: everything or any(f"{name}.".startswith(f"{package}.") for name in named),
    )


def is_slow(module: str) -> bool:
    """Tell whether a module of tests belongs to a slow package."""
    return any(module.startswith(f"{package}.") for package in slow_packages)


def separate(package: str, path: Sequence[str], command: str) -> LoadTests:
    """Return a `load_tests` function for a package whose tests run only if it is named, as `command` does."""
    return _loader(package, path, command, lambda: package in named)


def _loader(package: str, path: Sequence[str], command: str, is_wanted: Callable[[], bool]) -> LoadTests:
    def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
        if is_wanted():
            for folder in path:
                tests.addTests(loader.discover(folder, pattern or "test*.py"))
        else:
            if not left_out:
                atexit.register(_say)
            left_out[package] = command
        return tests

    return load_tests


def _say() -> None:
    packages = ", ".join(f"{package.replace('.', '/')} ({command})" for package, command in left_out.items())
    say(f"not run: {packages}")
