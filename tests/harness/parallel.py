"""Tests in processes of their own: hands out whole classes to workers and repeats what they report into one result.

A class is never split, because its fixtures belong to one process. A worker is a fresh process that imports the tests
by name, so what cannot be found by name (tests that a function made, modules that do not import) stays with the parent,
and so does what says `parallel = False`, as an attribute of its class or module, with a comment that says why.
"""

import contextlib
import importlib
import io
import os
import signal
import sys
import time
import unittest
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from tests.harness.findings import Findings, enter, findings

# How long workers may clean up after themselves when the run is cut short, in seconds, all together.
GRACE = 3.0
# How long a test takes that never ran, in seconds.
UNKNOWN = 0.1
# Begins the name under which a result keeps how long the fixtures before a class's first test took.
FIXTURES = "fixtures up to "
# Of a worker that was told to end early.
INTERRUPTED = 130


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


def can_move(test: unittest.TestCase) -> bool:
    """Tell whether another process finds `test` by its name."""
    try:
        # Equal, because doctest cases and the like come out otherwise than they went in.
        return Address.of(test).find() == test
    except (ImportError, AttributeError, TypeError, ValueError):
        return False


def spread(
    tests: Iterable[unittest.TestCase], seconds: Mapping[str, float]
) -> tuple[list[list[unittest.TestCase]], list[unittest.TestCase]]:
    """Divide tests into those for workers and those that run alone, in the parent.

    Args:
        tests: In the order that they keep within their class.
        seconds: How long tests took, by their ids, as far as it is known.

    Returns:
        The tests for workers, grouped by class, the longest first; and the others.
    """
    groups: dict[type, list[unittest.TestCase]] = {}
    alone = []
    for test in tests:
        kind = type(test)
        willing = getattr(kind, "parallel", True) is not False
        willing = willing and getattr(sys.modules.get(kind.__module__), "parallel", True) is not False
        (groups.setdefault(kind, []) if willing and can_move(test) else alone).append(test)

    def length(group: Sequence[unittest.TestCase]) -> float:
        return sum(seconds.get(test.id(), UNKNOWN) for test in group)

    return sorted(groups.values(), key=length, reverse=True), alone


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


# How each list of a result is filled, other than by the plain success.
ADDERS = {
    "failures": "addFailure",
    "errors": "addError",
    "skipped": "addSkip",
    "expectedFailures": "addExpectedFailure",
}


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
        if "SHOP_TEST_DATABASE_URL" in environment:
            importlib.import_module("tests.harness.postgres").server()
        if "SHOP_TEST_SEED" in environment:
            importlib.import_module("tests.harness.cases").run_seed()


class Parallel(unittest.TestSuite):
    """Groups of tests that run in workers, each group in one of them, and tests that run here when those are done.

    Args:
        groups: In the order in which they are handed out.
        alone: The tests that run here.
        processes: How many workers there may be.
        setup: For the workers.

    Attributes:
        interrupted: Whether Ctrl-C ended the run.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[unittest.TestCase]],
        alone: Iterable[unittest.TestCase],
        processes: int,
        setup: Setup,
    ) -> None:
        super().__init__(alone)
        self.interrupted = False
        self._waiting = deque(groups)
        self._processes = processes
        self._setup = setup

    def countTestCases(self) -> int:
        """Return how many tests there are, here and for the workers."""
        return super().countTestCases() + sum(map(len, self._waiting))

    def run(self, result: Stopwatch, debug: bool = False) -> Stopwatch:
        """Run all tests; after Ctrl-C, end the workers and return what is known by then."""
        workers: dict[Connection, _Worker] = {}
        try:
            try:
                self._run_groups(workers, result)
            finally:
                _end(list(workers.values()))
            result.lap()
            super().run(result, debug)
        except KeyboardInterrupt:
            self.interrupted = True
            result.stop()
        return result

    def _run_groups(self, workers: "dict[Connection, _Worker]", result: Stopwatch) -> None:
        while not result.shouldStop:
            while self._waiting and len(workers) < self._processes:
                with _interrupted_later():
                    worker = _Worker(self._setup, self._waiting.popleft())
                    workers[worker.connection] = worker
            if not workers:
                break
            for connection in wait(list(workers)):
                if not workers[connection].hear(result, self._waiting):
                    workers.pop(connection)


class _Worker:
    """A worker as the parent sees it."""

    def __init__(self, setup: Setup, group: Sequence[unittest.TestCase]) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, setup))
        self.process.start()
        theirs.close()
        self._done = False
        self._take(group)

    def _take(self, group: Sequence[unittest.TestCase]) -> None:
        self._group = group
        self._running: unittest.TestCase | None = None
        self._left = len(group)
        with contextlib.suppress(BrokenPipeError):  # It is dead, and will be found so when it is heard.
            self.connection.send([Address.of(test) for test in group])

    def hear(self, result: Stopwatch, waiting: deque[Sequence[unittest.TestCase]]) -> bool:
        """Take one message into `result`, and hand out the next group when asked; return False at the worker's end."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self._bury(result)
            return False
        match message:
            case Started(index):
                self._running = self._group[index]
            case Finished(None, outcomes):
                for outcome in outcomes:
                    _add(result, None, outcome)
            case Finished(index, outcomes, seconds):
                _repeat(result, self._group[index], outcomes)
                result.seconds.update(seconds)
                self._running = None
                self._left -= 1
            case Idle():
                if waiting:
                    # The module whose fixtures are up comes first, so that they are not made again elsewhere.
                    here = type(self._group[0]).__module__
                    group = next((group for group in waiting if type(group[0]).__module__ == here), waiting[0])
                    waiting.remove(group)
                    self._take(group)
                else:
                    with contextlib.suppress(BrokenPipeError):
                        self.connection.send(None)
            case Done(noted):
                result.findings.add(noted)
                self._done = True
        return True

    def _bury(self, result: Stopwatch) -> None:
        """Fail the class that the worker was running, unless it had told that it was done."""
        self.process.join()
        code = self.process.exitcode
        self.connection.close()
        if self._done:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        if self._running is not None:
            where = f"during {self._running.id()}"
        elif self._left:
            where = "between tests: in the fixtures of this class or of the one before it"
        else:
            where = "after the last test, in the fixtures"
        text = f"The process that ran this class {how}, {where}.\nTests without a result: {self._left}\n"
        name = classname(self._group[0])
        _add(result, None, Outcome("errors", text, Subject(name, name)))


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Put Ctrl-C off to the end of the block; a process that starts in it has it put off until it is ready for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(workers: Iterable[_Worker]) -> None:
    """End workers before they are through, leaving none."""
    # Somebody who presses Ctrl-C again is in a hurry, but must not leave processes behind.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for worker in workers:
            worker.connection.close()
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
    finally:
        signal.signal(signal.SIGINT, handler)


def _repeat(result: unittest.TestResult, test: unittest.TestCase, outcomes: Iterable[Outcome]) -> None:
    """Tell `result` of a test as if it had run here just now."""
    result.startTest(test)
    for outcome in outcomes:
        _add(result, test, outcome)
    result.stopTest(test)


def _add(result: unittest.TestResult, test: unittest.TestCase | None, outcome: Outcome) -> None:
    subject: Any = outcome.subject or test
    if outcome.kind == "":
        result.addSuccess(subject)
    elif outcome.kind == "unexpectedSuccesses":
        result.addUnexpectedSuccess(subject)
    elif outcome.kind == "skipped":
        result.addSkip(subject, outcome.text)
    else:
        # The result counts and shows an error that stands in for the worker's; then the worker's text takes its place.
        error = AssertionError("see the worker's text")
        getattr(result, ADDERS[outcome.kind])(subject, (AssertionError, error, None))
        getattr(result, outcome.kind)[-1] = (subject, outcome.text)


def classname(test: unittest.TestCase) -> str:
    """Return the dotted name of the test's class."""
    return f"{type(test).__module__}.{type(test).__qualname__}"
