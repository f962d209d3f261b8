"""The result of a run: verdicts and times by test, and the exit status."""

import sys
import unittest
from pathlib import Path
from typing import Any

from tests import binding
from tests.harness.findings import findings

ROOT = Path(__file__).resolve().parents[2]
# How a person runs the tests. A project may have a script for it.
PROGRAM = "scripts/test" if (ROOT / "scripts" / "test").exists() else "python -m tests.harness.runner"
# The variable that has the seed of the factories.
SEED = f"{binding.PREFIX}SEED"
PASSED, FAILED, WRONG_OPTIONS, NO_TESTS, INTERRUPTED = 0, 1, 2, 5, 130
# Prefix of the name under which a result keeps the time of the fixtures before the first test of a class.
FIXTURES = "fixtures up to "


class Result(unittest.TextTestResult):
    """unittest's result, with verdicts and times by test. The workers report both."""

    expected = 0  # the number of tests in the run

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # By test id, the verdicts on the test and on its subtests that did not pass, each with its parameters.
        self.verdicts: dict[str, list[tuple[str, str]]] = {}
        # By test id; the time of fixtures is under `FIXTURES` and the name of the class.
        self.seconds: dict[str, float] = {}
        self.findings = findings  # of this process and of the workers


def status_of(result: unittest.TestResult) -> int:
    """Return the exit status of a run."""
    if not result.wasSuccessful():
        return FAILED
    if not result.testsRun and not result.skipped:
        say(f"{PROGRAM}: no test was run")
        return NO_TESTS
    return PASSED


def say(*lines: str) -> None:
    """Print lines to standard error, as unittest does."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def say_skips(result: unittest.TestResult) -> None:
    """List the skipped tests with their reasons; tests with the same reason share a line."""
    reasons: dict[str, list[str]] = {}
    for test, reason in result.skipped:
        reasons.setdefault(reason, []).append(test.id())
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        say(f"skipped: {names[0]}{more}: {reason}")


def say_slowest(result: Result, number: int) -> None:
    """Print the `number` slowest tests and fixtures; 0 prints all."""
    slowest = sorted(result.seconds.items(), key=lambda item: -item[1])
    if slowest:
        say("slowest:", *(f"{seconds:9.3f} s  {name}" for name, seconds in slowest[: number or None]))


def say_cost(result: Result) -> None:
    """Print what the sandbox cost in this process and in the workers."""
    number, seconds = result.findings.sandboxes, result.findings.spent_on("sandbox")
    if number:
        say(f"sandbox: entered {number} times, {1000 * seconds / number:.2f} ms each to enter and leave")
