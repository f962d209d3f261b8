"""The order of a run's tests: as written, or shuffled by a seed."""

import hashlib
import shlex
import unittest
from collections.abc import Iterable, Iterator
from typing import Any

seed: str | None = None  # of the shuffle; the runner sets it before the tests are loaded


def order_options() -> str:
    """Return the option that repeats this run's order; empty if the run is not shuffled."""
    return "" if seed is None else f"--shuffle={shlex.quote(seed)}"


def flatten(suite: Iterable[Any]) -> Iterator[unittest.TestCase]:
    """Yield the tests of nested suites in their order."""
    for test in suite:
        if isinstance(test, unittest.BaseTestSuite):
            yield from flatten(test)
        else:
            yield test


def shuffled(tests: Iterable[unittest.TestCase], seed: str) -> list[unittest.TestCase]:
    """Return the tests in the order that `seed` decides; modules and classes stay together.

    The order follows a hash of seed and name, so a selection of tests keeps the order of the whole run.
    """

    def place(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    return sorted(tests, key=lambda test: (place(type(test).__module__), place(classname(test)), place(test.id())))


def classname(test: unittest.TestCase) -> str:
    """Return the dotted name of the test's class."""
    return f"{type(test).__module__}.{type(test).__qualname__}"
