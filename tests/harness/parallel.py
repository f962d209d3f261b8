"""Tests in processes of their own: hands out whole classes to workers and repeats what they report into one result.

A class is never split, because its fixtures belong to one process. A worker is a fresh process that imports the tests
by name, so what cannot be found by name (tests that a function made, modules that do not import) stays with the parent,
and so does what says `parallel = False`, as an attribute of its class or module, with a comment that says why.
"""

import contextlib
import signal
import sys
import time
import unittest
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.harness.parallel_worker import ADDERS, Address, Done, Finished, Idle, Outcome, Setup, Started, Subject, work
from tests.harness.results import Stopwatch, classname

# How long workers may clean up after themselves when the run is cut short, in seconds, all together.
GRACE = 3.0
# How long a test takes that never ran, in seconds.
UNKNOWN = 0.1


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
