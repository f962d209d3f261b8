"""What a run of tests comes to: how long everything took, each verdict by name, and the exit status."""

import sys
import time
import unittest
from typing import Any

from tests import binding
from tests.harness.findings import enter, findings

PROGRAM = "scripts/test"
# The variable that has the seed of the factories.
SEED = f"{binding.PREFIX}SEED"
PASSED, FAILED, WRONG_OPTIONS, NO_TESTS, INTERRUPTED = 0, 1, 2, 5, 130
# Begins the name under which a result keeps how long the fixtures before a class's first test took.
FIXTURES = "fixtures up to "


class Stopwatch(unittest.TestResult):
    """A result that knows how long everything took.

    Attributes:
        seconds: By the test's id; by a few words for the fixtures of a class and its module.
        findings: What this process and the workers noted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: dict[str, float] = {}
        self.findings = findings
        self._class: type | None = None
        self.lap()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._mark = getattr(self, "_mark", 0.0), time.perf_counter()
        return self._mark - before

    def startTest(self, test: unittest.TestCase) -> None:
        seconds = self.lap()
        if type(test) is not self._class:
            self._class = type(test)
            self.seconds[f"{FIXTURES}{classname(test)}"] = seconds
        enter("tests")
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        enter("fixtures")
        self.seconds[test.id()] = self.lap()


class Result(Stopwatch, unittest.TextTestResult):
    """unittest's result, with every verdict by name.

    Attributes:
        verdicts: By a test's id: the verdicts on its subTests in their order, each with the name of the subTest, then
            its own.
        expected: How many tests the run is going to have.
    """

    expected = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verdicts: dict[str, list[tuple[str, str]]] = {}

    def _note(self, verdict: str, test: Any, subtest: Any = None) -> None:
        which = "" if subtest is None else subtest.id().removeprefix(test.id())
        self.verdicts.setdefault(test.id(), []).append((verdict, which))

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._note("passed", test)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._note("failed", test)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._note("error", test)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        # What skips inside a subTest is the subTest.
        self._note("skipped", getattr(test, "test_case", test), test if hasattr(test, "test_case") else None)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._note("failed as expected", test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._note("passed unexpectedly", test)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        failed = err is not None and issubclass(err[0], test.failureException)
        self._note("passed" if err is None else "failed" if failed else "error", test, subtest)


def status_of(result: unittest.TestResult) -> int:
    """Return the exit status that a run comes to."""
    if not result.wasSuccessful():
        return FAILED
    if not result.testsRun and not result.skipped:
        say(f"{PROGRAM}: no test was run")
        return NO_TESTS
    return PASSED


def classname(test: unittest.TestCase) -> str:
    """Return the dotted name of the test's class."""
    return f"{type(test).__module__}.{type(test).__qualname__}"


def say(*lines: str) -> None:
    """Print lines where unittest prints its own."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)
