"""The order of a run's tests, as written or shuffled by a seed, and which worker process runs which of them."""

import hashlib
import shlex
import sys
import unittest
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.harness import tiers

seed: str | None = None  # of the shuffle; the runner sets it before the tests are loaded

# Assumed duration of a test that never ran, in seconds, and of one in a slow package.
UNKNOWN, UNKNOWN_SLOW = 0.1, 2.0

Group = Sequence[int]  # indices of the tests of a class


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


class Plan:
    """Decides which worker runs which tests. A class is never split.

    Args:
        tests: All tests, in order.
        processes: Number of workers that run at the same time.
        seconds: Known durations by test id: the longest class starts first.
        fixed: Deal the classes to the workers in advance, so that a shuffled run is repeatable.
    """

    def __init__(
        self, tests: Sequence[unittest.TestCase], processes: int, seconds: Mapping[str, float], *, fixed: bool
    ) -> None:
        self.tests = tests
        classes: dict[type, list[int]] = {}
        alone: list[int] = []
        for index, test in enumerate(tests):
            (classes.setdefault(type(test), []) if processes > 1 and _shares(test) else alone).append(index)
        groups: list[Group] = list(classes.values())
        # For each worker its groups; the same queue for all unless the plan is fixed.
        if fixed:
            self.queues = [deque[Group]() for _ in range(processes)]
            for group in groups:
                min(self.queues, key=lambda queue: sum(map(len, queue))).append(group)
        else:
            groups.sort(key=lambda group: -sum(_duration(tests[index], seconds) for index in group))
            self.queues = [deque(groups)] * processes
        # The tests that run after all others, in a worker of their own.
        self.alone = deque[Group]([alone] if alone else [])


def _duration(test: unittest.TestCase, seconds: Mapping[str, float]) -> float:
    """Return how long a test takes: as in an earlier run, if there was one."""
    return seconds.get(test.id(), UNKNOWN_SLOW if tiers.is_slow(type(test).__module__) else UNKNOWN)


def _shares(test: unittest.TestCase) -> bool:
    """Tell whether other tests may run at the same time as `test`."""
    kind = type(test)
    return all(getattr(each, "parallel", True) is not False for each in (kind, sys.modules.get(kind.__module__)))
