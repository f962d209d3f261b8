"""A worker process: runs the groups of tests that the parent names, and reports each test.

The parent forks it after the tests were loaded. So both have the same test objects, and a message names a test by its
index.
"""

import contextlib
import faulthandler
import io
import os
import signal
import sys
import time
import unittest
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import IO, Any, NoReturn

from tests.harness.findings import Findings, enter, findings
from tests.harness.leftovers import end_with_parent
from tests.harness.order import classname
from tests.harness.results import FAILED, FIXTURES, INTERRUPTED, PASSED

# The lists of `unittest.TestResult` and the verdict of each entry.
VERDICTS = {
    "failures": "failed",
    "errors": "error",
    "skipped": "skipped",
    "expectedFailures": "failed as expected",
    "unexpectedSuccesses": "passed unexpectedly",
}
# The parent sends this signal to a worker that exceeds the time limit; the worker writes where its threads are.
SHOW_STACKS = signal.SIGUSR1
# These signals interrupt a worker: Ctrl-C at a terminal, and the end of the run.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Options:
    """unittest's options that concern the process of the tests; see `unittest.TextTestRunner`."""

    failfast: bool = False
    buffer: bool = False
    tb_locals: bool = False
    warnings: str | None = None


@dataclass(frozen=True)
class Subject:
    """Stands for a subtest or a failed fixture, which exist only in the worker, in the parent's result."""

    name: str
    shown: str
    summary: str | None = None

    failureException = AssertionError

    def __str__(self) -> str:
        return self.shown

    def id(self) -> str:
        return self.name

    def shortDescription(self) -> str | None:
        return self.summary


@dataclass(frozen=True)
class Outcome:
    """One verdict.

    Attributes:
        verdict: "passed", or one of `VERDICTS`.
        text: The traceback as the worker formats it, or the reason of a skip.
        subject: A subtest or a fixture; None for the test itself.
    """

    verdict: str
    text: str = ""
    subject: Subject | None = None


@dataclass(frozen=True)
class Started:
    """The worker began the test with this index."""

    index: int


@dataclass(frozen=True)
class Finished:
    """The worker finished the test with this index, or a fixture if that is None."""

    index: int | None
    outcomes: Sequence[Outcome]
    seconds: dict[str, float]
    findings: Findings


@dataclass(frozen=True)
class Idle:
    """The worker finished its group."""


@dataclass(frozen=True)
class Done:
    """The worker finished its last fixtures."""

    findings: Findings


class Reporter(unittest.TestResult):
    """The worker's result: sends each verdict to the parent and keeps none."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._pid = os.getpid()
        self._outcomes: list[Outcome] = []
        self._seconds: dict[str, float] = {}
        self._class: type | None = None
        self._mark = time.perf_counter()
        self.index = 0
        self.running: unittest.TestCase | None = None

    def lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before

    def startTest(self, test: unittest.TestCase) -> None:
        self.flush()
        seconds = self.lap()
        if type(test) is not self._class:
            self._class = type(test)
            self._seconds[f"{FIXTURES}{classname(test)}"] = seconds
        self.running = test
        enter("tests")
        super().startTest(test)
        self._connection.send(Started(self.index))

    def stopTest(self, test: unittest.TestCase) -> None:
        if os.getpid() != self._pid:
            self._end_fork()
        super().stopTest(test)
        enter("fixtures")
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            return  # The test has no verdict, and its cleanups did not run.
        # If the worker dies in a later test, this output must not be lost.
        sys.stdout.flush()
        self._seconds[test.id()] = self.lap()
        self._send(self.index)
        self.running = None

    def _end_fork(self) -> NoReturn:
        """End a process that the test forked and that left the test: it would run the remaining tests once more."""
        for outcome in self._outcomes:
            sys.stderr.write(f"In a process that a test forked: {outcome.verdict}\n{outcome.text}")
        sys.stderr.flush()
        os._exit(FAILED)

    def flush(self) -> None:
        """Send the verdicts of fixtures since the last test."""
        if self._outcomes:
            self._send(None)

    def _send(self, index: int | None) -> None:
        # With each test, because a worker that dies would take its findings along.
        self._connection.send(Finished(index, self._outcomes, self._seconds, findings))
        self._outcomes, self._seconds = [], {}
        findings.clear()

    def _collect(self, test: Any) -> None:
        """Move what unittest has put into its lists to the outcomes."""
        for kind, verdict in VERDICTS.items():
            entries: list[Any] = getattr(self, kind)
            for entry in entries:
                subject, text = entry if isinstance(entry, tuple) else (entry, "")
                self._outcomes.append(Outcome(verdict, text, self._stand_in(subject)))
            entries.clear()

    def _stand_in(self, subject: Any) -> Subject | None:
        if subject is self.running:
            return None
        return Subject(subject.id(), str(subject), subject.shortDescription())

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._outcomes.append(Outcome("passed"))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._collect(test)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._collect(test)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        if self.running is None and isinstance(test, unittest.TestCase):
            self.startTest(test)  # Python 3.12.1 leaves that out if a decorator skips the test; it does stop the test.
        super().addSkip(test, reason)
        self._collect(test)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._collect(test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._collect(test)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is None:
            self._outcomes.append(Outcome("passed", subject=self._stand_in(subtest)))
        self._collect(test)


class _Received(unittest.TestSuite):
    """The tests that the parent names. One suite for all groups, so that a module's fixtures serve several classes."""

    def __init__(self, tests: Sequence[unittest.TestCase], connection: Connection, reporter: Reporter) -> None:
        super().__init__()
        self._all = tests
        self._connection = connection
        self._reporter = reporter
        self.kind: type[unittest.TestCase] | None = None  # the class whose fixtures are set up

    def __iter__(self) -> Iterator[unittest.TestCase]:
        while (group := self._connection.recv()) is not None:
            self._reporter.lap()
            for self._reporter.index in group:
                test = self._all[self._reporter.index]
                self.kind = type(test)
                yield test
            self._reporter.flush()
            self._connection.send(Idle())

    def _removeTestAtIndex(self, index: int) -> None:
        pass  # The list of tests belongs to the parent's result, too.


def work(tests: Sequence[unittest.TestCase], connection: Connection, options: Options, stacks: IO[str]) -> int:
    """Run the groups of tests that come over `connection` until None comes; return the exit status.

    Args:
        tests: All tests of the run.
        connection: To the parent.
        options: For unittest.
        stacks: Where `SHOW_STACKS` writes the stacks of all threads.
    """
    for number in END_SIGNALS:
        signal.signal(number, _interrupt)
    end_with_parent(signal.SIGTERM)
    faulthandler.register(SHOW_STACKS, file=stacks)
    findings.clear()
    reporter = Reporter(connection)
    resultclass: Any = lambda *_, **__: reporter  # noqa: E731 - the stubs want a class that prints.
    runner = unittest.TextTestRunner(
        io.StringIO(),
        failfast=options.failfast,
        buffer=options.buffer,
        tb_locals=options.tb_locals,
        warnings=options.warnings,
        resultclass=resultclass,
    )
    suite = _Received(tests, connection, reporter)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)  # The parent has blocked them.
        runner.run(suite)
        reporter.flush()
        connection.send(Done(findings))
        return PASSED
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        _clean_up(reporter.running, suite.kind)
        return INTERRUPTED
    finally:
        _ignore_signals()  # A signal must not interrupt the exit: this process would go on with the work of its parent.


def _clean_up(test: unittest.TestCase | None, kind: type[unittest.TestCase] | None) -> None:
    """Undo what an interrupted test and its fixtures made: unittest leaves that out after a KeyboardInterrupt."""
    undos = [test.tearDown, test.doCleanups] if test else []
    undos += [kind.tearDownClass, kind.doClassCleanups] if kind else []
    for undo in (*undos, unittest.doModuleCleanups):
        with contextlib.suppress(Exception):
            undo()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Once only: Ctrl-C and the parent both send a signal, and the second would interrupt the clean-up.
    _ignore_signals()
    # Not SystemExit: unittest would take that for an error of the test and go on.
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in END_SIGNALS:
        signal.signal(number, lambda *_: None)  # Not SIG_IGN, which processes that the clean-up starts would inherit.
