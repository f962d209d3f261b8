"""A worker process of a parallel run: runs the classes of tests that it is handed, and tells what each test came to.

What goes between a worker and its parent is here, too: `Setup` and lists of `Address` one way, `Started`, `Finished`,
`Idle` and `Done` the other.
"""

import contextlib
import importlib
import io
import os
import signal
import sys
import unittest
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from tests import binding
from tests.harness.findings import Findings, findings
from tests.harness.results import INTERRUPTED, SEED, Stopwatch

# How each list of a result is filled, other than by the plain success.
ADDERS = {
    "failures": "addFailure",
    "errors": "addError",
    "skipped": "addSkip",
    "expectedFailures": "addExpectedFailure",
}


@dataclass(frozen=True)
class Setup:
    """What a worker has to know beside its tests.

    Attributes:
        environment: Environment variables that differ from the parent's.
        buffer, tb_locals, warnings: As `unittest.TextTestRunner` takes them.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    buffer: bool = False
    tb_locals: bool = False
    warnings: str | None = None


@dataclass(frozen=True)
class Address:
    """Where a test is found by name."""

    module: str
    classname: str
    method: str

    @classmethod
    def of(cls, test: unittest.TestCase) -> "Address":
        """Return the address of `test`."""
        return cls(type(test).__module__, type(test).__qualname__, test.id().rpartition(".")[2])

    def find(self) -> unittest.TestCase:
        """Return a new instance of the test.

        Raises:
            ImportError, AttributeError, TypeError, ValueError: Nothing is there, or it is no plain test.
        """
        found: Any = importlib.import_module(self.module)
        for name in self.classname.split("."):
            found = getattr(found, name)
        return found(self.method)


@dataclass(frozen=True)
class Subject:
    """Stands for what only the worker has in the parent's result: a subTest, or a fixture that failed."""

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
    """One thing that a test, or a fixture, came to.

    Attributes:
        kind: The list of `unittest.TestResult` that it belongs in; empty for a success.
        text: The traceback as the worker shows it, or the reason of a skip.
        subject: A subTest or a fixture; None for the test itself.
    """

    kind: str
    text: str = ""
    subject: Subject | None = None


@dataclass(frozen=True)
class Started:
    """A worker began the test at `index` of its group."""

    index: int


@dataclass(frozen=True)
class Finished:
    """A worker is through with the test at `index` of its group, or, without one, with a fixture."""

    index: int | None
    outcomes: Sequence[Outcome]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Idle:
    """A worker is through with its group."""


@dataclass(frozen=True)
class Done:
    """A worker has left its last fixtures."""

    findings: Findings


class Reporter(Stopwatch):
    """The worker's result: sends everything on, and keeps nothing."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self.index = 0
        self._passed = False

    def startTest(self, test: unittest.TestCase) -> None:
        self.flush()
        super().startTest(test)
        self._passed = False
        self._connection.send(Started(self.index))

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._passed = True

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        # A worker that dies in a later test would take with it what this one has printed.
        sys.stdout.flush()
        self._send(self.index, test)

    def stopTestRun(self) -> None:
        self.flush()

    def flush(self) -> None:
        """Send what fixtures came to since the last test."""
        if self.failures or self.errors or self.skipped:
            self._send(None, None)

    def _send(self, index: int | None, test: unittest.TestCase | None) -> None:
        outcomes = [Outcome("")] if self._passed else []
        for kind in ADDERS:
            for subject, text in getattr(self, kind):
                outcomes.append(Outcome(kind, text, None if subject is test else _stand_in(subject)))
            getattr(self, kind).clear()
        outcomes += [Outcome("unexpectedSuccesses") for _ in self.unexpectedSuccesses]
        self.unexpectedSuccesses.clear()
        self._connection.send(Finished(index, outcomes, self.seconds))
        self._passed = False
        self.seconds = {}


def _stand_in(subject: Any) -> Subject:
    return Subject(subject.id(), str(subject), subject.shortDescription())


class _Received(unittest.TestSuite):
    """The worker's tests, as they come: one suite for all, so that a module's fixtures serve its classes in a row."""

    def __init__(self, connection: Connection, reporter: Reporter) -> None:
        super().__init__()
        self._connection = connection
        self._reporter = reporter

    def __iter__(self) -> Iterator[unittest.TestCase]:
        while (group := self._connection.recv()) is not None:
            self._reporter.lap()
            for self._reporter.index, address in enumerate(group):
                yield address.find()
            self._reporter.flush()
            self._connection.send(Idle())

    def _removeTestAtIndex(self, index: int) -> None:
        pass  # Nothing is kept that would have to be let go.


def work(connection: Connection, setup: Setup) -> None:
    """Run the groups of tests that come over `connection` until None comes; the body of a worker process."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.environ.update(setup.environment)
        _meet_server(setup.environment)
        reporter = Reporter(connection)
        unittest.TextTestRunner(
            io.StringIO(),
            buffer=setup.buffer,
            tb_locals=setup.tb_locals,
            warnings=setup.warnings,
            resultclass=lambda *_, **__: reporter,
        ).run(_Received(connection, reporter))
        connection.send(Done(findings))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        # The run was cut short, or the parent is no more. Exit handlers still drop what this process made.
        sys.exit(INTERRUPTED)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Not SystemExit, which unittest would take for an error of the test and go on; and once only, because Ctrl-C and
    # the parent both say so, and the second would cut the cleaning up short.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


def _meet_server(environment: Mapping[str, str]) -> None:
    """Take the parent's server and seed, if it has any, without the lines in which the parent has already said so."""
    with contextlib.redirect_stderr(io.StringIO()):
        if f"{binding.PREFIX}DATABASE_URL" in environment:
            importlib.import_module("tests.harness.postgres").server()
        if SEED in environment:
            importlib.import_module("tests.harness.cases").run_seed()
