"""Runs the tests and writes a report: what was tested, what came of it, where the time went, and what is missing.

    scripts/report [OPTION ...] [TEST ...]

Options and tests are those of scripts/test. The report is `build/report/`: `report.html` (one file), `report.md`,
`junit.xml` and `report.json`, which has everything that the others show. The exit status is that of the run.
"""

import os
import subprocess
import sys
import unittest
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.harness import report_pages, runner
from tests.harness.report_facts import Test, gather
from tests.harness.results import WRONG_OPTIONS, Result, classname, say

FOLDER = Path("build/report")
GOOD = ("passed", "failed as expected")


class Recorder(Result):
    """A result that shows progress and remembers each test.

    Attributes:
        tests: By id, in the order in which they began.
        started: When the run began.
    """

    def __init__(self, _stream: Any, descriptions: bool, verbosity: int) -> None:
        # What unittest would print goes into the report, and the progress has the terminal for itself.
        super().__init__(unittest.runner._WritelnDecorator(StringIO()), descriptions, verbosity)
        self.tests: dict[str, unittest.TestCase] = {}
        self.started = datetime.now(UTC)
        self._progress = _Progress(self.expected)

    def startTestRun(self) -> None:
        super().startTestRun()
        self._progress.start()

    def stopTestRun(self) -> None:
        super().stopTestRun()
        self._progress.stop()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.tests[test.id()] = test

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self._progress.advance(test, verdict_of(self, test.id()))

    def records(self) -> list[Test]:
        """Return what each test came to; fixtures that failed are among them, as tests that did not pass."""
        texts: dict[str, list[str]] = {}
        for kind in (self.failures, self.errors, self.skipped, self.expectedFailures):
            for test, text in kind:
                # A subTest's name begins with its test's; a fixture has a name of its own.
                name = test.id().partition(" ")[0]
                texts.setdefault(name if name in self.tests else test.id(), []).append(text)
        found = [
            Test.of(test, verdict_of(self, name), self.seconds.get(name, 0.0), "\n".join(texts.pop(name, [])))
            for name, test in self.tests.items()
        ]
        return found + [Test.of_fixture(name, "\n".join(lines)) for name, lines in texts.items()]


def verdict_of(result: Result, name: str) -> str:
    """Return the verdict on a test as a whole: a subTest that failed fails it."""
    verdicts = [verdict for verdict, _ in result.verdicts.get(name, [("error", "")])]
    for bad in ("error", "failed", "passed unexpectedly"):
        if bad in verdicts:
            return bad
    return "skipped" if verdicts[-1:] == ["skipped"] else verdicts[-1]


class _Progress:
    """A bar on a terminal; elsewhere a line for each class of tests."""

    def __init__(self, expected: int) -> None:
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("starting", total=expected)
        self._expected = expected
        self._done, self._bad = 0, 0
        self._class = ""

    def start(self) -> None:
        if self._bar:
            self._bar.start()

    def stop(self) -> None:
        if self._bar:
            self._bar.stop()
        else:
            self._say_class()

    def advance(self, test: unittest.TestCase, verdict: str) -> None:
        self._done += 1
        self._bad += verdict not in (*GOOD, "skipped")
        failing = f", {self._bad} failing" if self._bad else ""
        if self._bar:
            self._bar.update(self._task, advance=1, description=f"{type(test).__name__}{failing}")
        elif classname(test) != self._class:
            self._say_class()
            self._class = classname(test)

    def _say_class(self) -> None:
        if self._class:
            failing = f", {self._bad} failing" if self._bad else ""
            say(f"{self._done:5} of {self._expected} tests{failing}  {self._class}")


def write(facts: dict[str, Any], folder: Path) -> None:
    """Write all forms of the report into `folder`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in report_pages.render(facts).items():
        draft = folder / f".{name}.{os.getpid()}"
        draft.write_text(text, "utf-8")
        draft.replace(folder / name)


def closing_line(facts: dict[str, Any]) -> str:
    """Return the line that counts the tests."""
    counts = facts["summary"]
    return f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"


def _commit() -> str:
    with suppress(OSError):
        asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
        return asked.stdout.strip() or "unknown"
    return "unknown"


def main(arguments: Sequence[str]) -> int:
    """Run, write, and return the exit status."""
    program = runner.run(arguments, Recorder)
    result = program.result
    if not isinstance(result, Recorder):
        say("scripts/report: these options run no tests that a report could be about")
        return program.status or WRONG_OPTIONS
    facts = gather(program, result.records(), started=result.started, commit=_commit())
    write(facts, FOLDER)
    for test in facts["tests"]:
        if test["verdict"] not in (*GOOD, "skipped"):
            say("", f"{test['verdict'].upper()}: {test['name']}", test["text"])
    say(f"report: {FOLDER / 'report.html'}")
    print(closing_line(facts))
    return program.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
