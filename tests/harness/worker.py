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
import traceback
import unittest
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import IO, Any

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

# These signals interrupt a worker: Ctrl-C at a terminal, and the end of the run.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Outcome:
    """A verdict on a test, a subtest or a fixture. In the parent it stands for the subtest or fixture, too."""

    verdict: str  # "passed", or one of `VERDICTS`
    name: str
    shown: str = ""
    summary: str | None = None
    text: str = ""  # the traceback as the worker formats it, or the reason of a skip

    failureException = AssertionError

    def __str__(self) -> str:
        return self.shown

    def id(self) -> str:
        return self.name

    def shortDescription(self) -> str | None:
        return self.summary


@dataclass(frozen=True)
class Report:
    """A message to the parent, with all that happened since the last one."""

    event: str  # "started" or "finished", for the test at `index`; "idle" after a group; "done" after the last fixture
    index: int
    outcomes: Sequence[Outcome]  # of the finished test and its subtests; with other events, of fixtures
    seconds: Mapping[str, float]
    findings: Findings


class Reporter(unittest.TestResult):
    """The worker's result: sends each verdict to the parent and keeps none."""

    def __init__(self, connection: Connection, limit: float) -> None:
        super().__init__()
        self._connection = connection
        self._limit = limit
        self._pid = os.getpid()
        self._outcomes: list[Outcome] = []
        self._seconds: dict[str, float] = {}
        self._class: type | None = None
        self._mark = time.perf_counter()
        self.index = 0
        self.running: unittest.TestCase | None = None

    def report(self, event: str) -> None:
        """Send an event to the parent. A process that a test or fixture forked ends here."""
        set_alarm(0)  # The parent may need a while until it reads the message, or until it has another group.
        for kind, verdict in VERDICTS.items():
            entries: list[Any] = getattr(self, kind)
            for entry in entries:
                test, text = entry if isinstance(entry, tuple) else (entry, "")
                self._outcomes.append(Outcome(verdict, test.id(), str(test), test.shortDescription(), text))
            entries.clear()
        if os.getpid() != self._pid:
            # It has left the code that forked it, and would run the remaining tests once more.
            for outcome in self._outcomes:
                sys.stderr.write(f"In a process that a test forked: {outcome.verdict}\n{outcome.text}")
            sys.stderr.flush()
            os._exit(FAILED)
        self._connection.send(Report(event, self.index, self._outcomes, self._seconds, findings))
        self._outcomes, self._seconds = [], {}
        findings.clear()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before

    def startTest(self, test: unittest.TestCase) -> None:
        seconds = self.lap()
        if type(test) is not self._class:
            self._class = type(test)
            self._seconds[f"{FIXTURES}{classname(test)}"] = seconds
        self.report("started")
        self.running = test
        enter("tests")
        super().startTest(test)
        set_alarm(getattr(test, "time_limit", self._limit))

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        enter("fixtures")
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            return  # The test has no verdict, and its cleanups did not run.
        # If the worker dies in a later test, this output must not be lost.
        sys.stdout.flush()
        self._seconds[test.id()] = self.lap()
        self.report("finished")
        self.running = None
        self.limit_fixtures(type(test))

    def limit_fixtures(self, kind: type | None) -> None:
        """Limit the time of the fixtures of a class: they have at least the general limit."""
        set_alarm(self._limit and max(self._limit, getattr(kind, "time_limit", 0)))

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._outcomes.append(Outcome("passed", test.id()))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        if self.running is None and isinstance(test, unittest.TestCase):
            self.startTest(test)  # Python 3.12.1 leaves that out if a decorator skips the test; it does stop the test.
        super().addSkip(test, reason)


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
                self._reporter.limit_fixtures(self.kind)
                yield test
            self._reporter.report("idle")
        self._reporter.limit_fixtures(self.kind)

    def _removeTestAtIndex(self, index: int) -> None:
        pass  # The list of tests belongs to the parent's result, too.


@dataclass(frozen=True)
class Job:
    """What a worker needs from its parent."""

    tests: Sequence[unittest.TestCase]  # all of the run
    options: Mapping[str, Any]  # for `unittest.TextTestRunner`
    limit: float  # seconds that a test or a fixture may take; 0 for no limit. A class overrides it with `time_limit`


def work(job: Job, connection: Connection, others: Iterable[Connection], stacks: IO[str]) -> None:
    """Run the groups of tests that come over `connection` until None comes, and end the process.

    Args:
        job: The tests.
        connection: To the parent.
        others: Connections of the parent. A copy that stays open here would hide the end of the parent from a worker.
        stacks: Gets the stacks of all threads at the end of a test that exceeds its limit.
    """
    status = FAILED
    try:
        try:
            for other in others:
                other.close()
            faulthandler.register(signal.SIGALRM, file=stacks, chain=True)
            status = _run(job, connection)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
    finally:
        # At once: a thread that a test left would keep the process.
        os._exit(status)


def _run(job: Job, connection: Connection) -> int:
    for number in END_SIGNALS:
        signal.signal(number, _interrupt)
    end_with_parent(signal.SIGTERM)
    findings.clear()
    reporter = Reporter(connection, job.limit)
    suite = _Received(job.tests, connection, reporter)
    resultclass: Any = lambda *_, **__: reporter  # noqa: E731 - the stubs want a class that prints.
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)  # The parent has blocked them.
        unittest.TextTestRunner(io.StringIO(), resultclass=resultclass, **job.options).run(suite)
        reporter.report("done")
        return PASSED
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        _clean_up(reporter.running, suite.kind)
        return INTERRUPTED
    finally:
        _ignore_signals()  # The exit saves the coverage, and must not be interrupted.


def set_alarm(seconds: float) -> None:
    """End this process with SIGALRM after this time, unless another alarm is set; 0 sets none."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


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
