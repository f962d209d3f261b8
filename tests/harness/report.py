"""Runs the tests and writes a report: what was tested, what failed, where the time went, and what to do next.

    scripts/report [OPTION ...] [TEST ...]

The options and tests are those of scripts/test. The report is `build/report/`: `report.html` (one file), `report.md`,
`junit.xml` and `report.json`, which has all facts. The exit status is that of the run.
"""

import os
import subprocess
import sys
import unittest
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.harness import report_pages, runner
from tests.harness.report_facts import OUTCOMES, Test, gather
from tests.harness.results import WRONG_OPTIONS, Result, say

FOLDER = Path("build/report")


class Recorder(Result):
    """A result that shows progress and remembers each test."""

    def __init__(self, _stream: Any, descriptions: bool, verbosity: int) -> None:
        # The report has what unittest would print, so the terminal is free for the progress.
        super().__init__(unittest.runner._WritelnDecorator(StringIO()), descriptions, verbosity)
        self.tests: dict[str, unittest.TestCase] = {}  # by id, in the order in which they began
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
        self._progress.advance(test, failed=self._verdict(test.id()) not in OUTCOMES)

    def records(self) -> list[Test]:
        """Return all tests with their results, failed fixtures included."""
        texts: dict[str, list[str]] = {}
        for kind in (self.failures, self.errors, self.skipped, self.expectedFailures):
            for test, text in kind:
                # A subtest's id begins with its test's id. A fixture has an id of its own.
                name = test.id().partition(" ")[0]
                texts.setdefault(name if name in self.tests else test.id(), []).append(text.strip())
        found = [self._record(name, test, "\n".join(texts.pop(name, []))) for name, test in self.tests.items()]
        return found + [
            Test(name, name.rpartition("(")[2].rpartition(".")[0], name, "Fixture", "error", 0.0, "\n".join(lines))
            for name, lines in texts.items()
        ]

    def _record(self, name: str, test: unittest.TestCase, text: str) -> Test:
        words = name.rpartition(".")[2].removeprefix("test_").replace("_", " ").strip()
        sentence = test.shortDescription() or f"{words[:1].upper()}{words[1:]}"
        seconds = self.seconds.get(name, 0.0)
        return Test(name, type(test).__module__, type(test).__qualname__, sentence, self._verdict(name), seconds, text)

    def _verdict(self, name: str) -> str:
        """Return the verdict on a whole test: a failed subtest fails it."""
        verdicts = [verdict for verdict, _ in self.verdicts.get(name, [("error", "")])]
        return next((verdict for verdict in verdicts if verdict not in OUTCOMES), verdicts[-1])


class _Progress:
    """A bar on a terminal. Elsewhere, a line for each twentieth of the tests."""

    def __init__(self, expected: int) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=expected)
        self._expected, self._done, self._failed = expected, 0, 0
        self.start, self.stop = self._bar.start, self._bar.stop

    def advance(self, test: unittest.TestCase, *, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        words = f"{type(test).__name__}, {self._failed} failed" if self._failed else type(test).__name__
        self._bar.update(self._task, advance=1, description=words)
        if self._bar.disable and self._done % max(1, self._expected // 20) == 0:
            say(f"{self._done:5} of {self._expected} tests  {words}")


def write(facts: Mapping[str, Any], folder: Path) -> None:
    """Write all forms of the report into `folder`. A reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in report_pages.render(facts).items():
        draft = folder / f".{name}.{os.getpid()}"
        draft.write_text(text, "utf-8")
        draft.replace(folder / name)


def _commit() -> str:
    with suppress(OSError):
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
        return found.stdout.strip() or "unknown"
    return "unknown"


def main(arguments: Sequence[str]) -> int:
    """Run the tests, write the report, and return the exit status."""
    program = runner.run(arguments, Recorder)
    result = program.report
    if not isinstance(result, Recorder):
        say("scripts/report: there is nothing to report, because these options run no tests")
        return program.status or WRONG_OPTIONS
    facts = gather(program, result.records(), started=result.started, commit=_commit())
    write(facts, FOLDER)
    for test in facts["tests"]:
        if test["outcome"] == "failed":
            say("", f"{test['verdict'].upper()}: {test['name']}", test["text"])
    say(f"report: {FOLDER / 'report.html'}")
    print("{passed} passed, {failed} failed, {skipped} skipped".format_map(facts["summary"]))
    return program.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
