"""Which worker runs which tests."""

import sys
import unittest
from collections import deque
from collections.abc import Mapping, Sequence

# Assumed duration of a test that never ran, in seconds.
UNKNOWN = 0.1

Group = Sequence[int]  # indices of the tests of a class


class Plan:
    """Decides which worker runs which tests.

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
        self.processes = processes
        classes: dict[type, list[int]] = {}
        alone: list[int] = []
        for index, test in enumerate(tests):
            (classes.setdefault(type(test), []) if processes > 1 and _shares(test) else alone).append(index)
        groups: list[Group] = list(classes.values())
        # One queue for each worker, or the same queue for all.
        self.queues = [deque[Group]() for _ in range(processes)] if fixed else [deque[Group]()] * processes
        if fixed:
            for group in groups:
                min(self.queues, key=lambda queue: sum(map(len, queue))).append(group)
        else:
            groups.sort(key=lambda group: -sum(seconds.get(tests[index].id(), UNKNOWN) for index in group))
            self.queues[0].extend(groups)
        self.alone = deque[Group]([alone] if alone else [])


def _shares(test: unittest.TestCase) -> bool:
    """Tell whether other tests may run at the same time as `test`."""
    kind = type(test)
    return all(getattr(each, "parallel", True) is not False for each in (kind, sys.modules.get(kind.__module__)))
