"""Runs tests in worker processes and repeats their reports into one result.

Every run of `scripts/test` uses workers: one that runs all tests in order, or several with `--parallel`. So a test that
hangs, or ends its process, is named, and the other tests still run. A class is never split, because its fixtures belong
to one process. A class or module that says `parallel = False` runs after all others, in a worker of its own.

Workers are forked, so tests need not be found again by name: attributes that `load_tests` has set are there.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
import unittest
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.harness.order import classname, order_options
from tests.harness.plan import Group, Plan
from tests.harness.results import FAILED, PROGRAM, Result
from tests.harness.worker import (
    END_SIGNALS,
    SHOW_STACKS,
    Done,
    Finished,
    Idle,
    Options,
    Outcome,
    Started,
    Subject,
    work,
)

# Seconds that interrupted workers have to clean up, all together.
GRACE = 10.0
# Seconds that a worker has to write its stacks.
STACKS_GRACE = 0.5
LISTS = {"failed": "failures", "error": "errors", "failed as expected": "expectedFailures"}


class Workers(unittest.TestSuite):
    """A suite that runs the tests of a plan in workers.

    Args:
        plan: Which worker runs which tests.
        options: For the workers.
        limit: Seconds that a test or a fixture may take; 0 for no limit. A class overrides it with `time_limit`.

    Attributes:
        interrupted: Whether Ctrl-C ended the run.
    """

    def __init__(self, plan: Plan, options: Options, limit: float) -> None:
        super().__init__()
        self.interrupted = False
        self._plan = plan
        self._options = options
        self._limit = limit

    def countTestCases(self) -> int:
        """Return the number of tests."""
        return len(self._plan.tests)

    def run(self, result: unittest.TestResult, debug: bool = False) -> Result:
        """Run all tests; after Ctrl-C, end the workers and return the results so far."""
        assert isinstance(result, Result), "unittest's own result would lose verdicts, times and findings"
        result.buffer = False  # The workers capture output.
        workers: list[_Worker] = []
        try:
            self._run_queues(workers, result, self._plan.queues)
            self._run_queues(workers, result, [self._plan.alone])
        except KeyboardInterrupt:
            self.interrupted = True
            for worker in workers:
                worker.hear_rest(result)
            running = [worker.running.id() for worker in workers if worker.running is not None]
            result.stream.writeln(f"\n{PROGRAM}: interrupted{' during ' if running else ''}{', '.join(running)}")
        finally:
            _end(workers)
        return result

    def _run_queues(self, workers: "list[_Worker]", result: Result, queues: Sequence[deque[Group]]) -> None:
        """Run the groups in `queues`, each queue in a worker; a worker that dies is replaced while it has work."""
        several = len(queues) > 1
        while not result.shouldStop:
            for place, queue in enumerate(queues):
                if queue and not any(worker.place == place for worker in workers):
                    others = [worker.connection for worker in workers]
                    with _interrupted_later():
                        workers.append(_Worker(self._plan.tests, queue, place, self._options, others, several=several))
            if not workers:
                return
            ready = wait([worker.connection for worker in workers], self._patience(workers))
            for worker in list(workers):
                with _interrupted_later():  # A message that was read is not lost.
                    alive = worker.hear(result) if worker.connection in ready else worker.keep_time(result, self._limit)
                    if not alive:
                        workers.remove(worker)

    def _patience(self, workers: "Iterable[_Worker]") -> float | None:
        """Return the seconds until the first worker exceeds its limit."""
        deadlines = [worker.deadline(self._limit) for worker in workers]
        known = [deadline for deadline in deadlines if deadline is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None


class _Worker:
    """A worker as the parent sees it."""

    def __init__(
        self,
        tests: Sequence[unittest.TestCase],
        queue: deque[Group],
        place: int,
        options: Options,
        others: Sequence[Connection],
        *,
        several: bool,
    ) -> None:
        self.queue = queue
        self.place = place
        self.running: unittest.TestCase | None = None
        self._tests = tests
        self._several = several
        self._ran: list[unittest.TestCase] = []
        self._done = False
        self._stacks = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it.
        self.connection, theirs = Pipe()
        self.pid = _fork(lambda: work(tests, theirs, options, self._stacks), [self.connection, *others])
        theirs.close()
        self._take()

    def _take(self) -> None:
        """Hand out the next group, or None if there is no more."""
        self.running = None
        self._group: Group = ()
        if self.queue:
            self._group = self._next()
        self._left = list(self._group)
        self._since = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # It is dead; `hear` will notice.
            self.connection.send(self._group or None)

    def _next(self) -> Group:
        # A group of the same module comes first: the module's fixtures are set up here.
        here = type(self._ran[-1]).__module__ if self._ran else None
        group = next((each for each in self.queue if type(self._tests[each[0]]).__module__ == here), self.queue[0])
        self.queue.remove(group)
        return group

    def deadline(self, limit: float) -> float | None:
        """Return the time at which the running test exceeds its limit; None if there is no limit."""
        if self.running is not None:
            limit = getattr(self.running, "time_limit", limit)
        elif self._left:
            # Fixtures have at least the general limit.
            limit = limit and max(limit, getattr(self._tests[self._left[0]], "time_limit", 0))
        return self._since + limit if limit else None

    def keep_time(self, result: Result, limit: float) -> bool:
        """Stop the worker if its test exceeds the limit; return False if it was stopped."""
        deadline = self.deadline(limit)
        if deadline is None or time.monotonic() < deadline:
            return True
        os.kill(self.pid, SHOW_STACKS)
        time.sleep(STACKS_GRACE)
        self._bury(result, f"took more than {deadline - self._since:g} s and was stopped", self._stop())
        return False

    def _stop(self) -> str:
        """Kill the worker and return its stacks."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._stacks.seek(0)
        return self._stacks.read()

    def close(self) -> None:
        self.connection.close()
        self._stacks.close()

    def hear(self, result: Result) -> bool:
        """Take one message into `result`; return False if the worker has ended."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self._bury(result, "", "")
            return False
        self._since = time.monotonic()
        self._take_in(message, result)
        return True

    def _take_in(self, message: object, result: Result) -> None:
        match message:
            case Started(index):
                self.running = self._tests[index]
                if not self._several:
                    result.startTest(self.running)
            case Finished(index, outcomes, seconds, noted):
                result.seconds.update(seconds)
                result.findings.add(noted)
                if index is None:
                    for outcome in outcomes:
                        _add(result, outcome.subject, self._explained(outcome))
                else:
                    self._finish(result, self._tests[index], outcomes)
                    self._left.remove(index)
            case Idle():
                self._take()
            case Done(noted):
                result.findings.add(noted)
                self._done = True

    def hear_rest(self, result: Result) -> None:
        """Take the messages that have arrived."""
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                self._take_in(self.connection.recv(), result)

    def _finish(self, result: Result, test: unittest.TestCase, outcomes: Iterable[Outcome]) -> None:
        if self._several:
            result.startTest(test)
        for outcome in outcomes:
            _add(result, test, self._explained(outcome))
        result.stopTest(test)
        self.running = None
        self._ran.append(test)

    def _explained(self, outcome: Outcome) -> Outcome:
        """Add to a failure what ran before it in this worker; in one worker, the order of the run says that."""
        if not self._several or outcome.verdict not in ("failed", "error") or not self._ran:
            return outcome
        names = " ".join(dict.fromkeys(classname(test) for test in self._ran))
        command = " ".join(filter(None, [PROGRAM, order_options(), names]))
        return Outcome(outcome.verdict, f"{outcome.text}ran before it in its worker: {command}\n", outcome.subject)

    def _bury(self, result: Result, how: str, stacks: str) -> None:
        """Report the end of a worker, unless it was done; the rest of its group goes to another worker."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.close()
        if self._done:
            return
        how = how or (f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}")
        if self.running is not None:
            test = self.running
            self._left.remove(next(index for index in self._left if self._tests[index] is test))
            self._finish(result, test, [Outcome("error", f"The process of this test {how}.\n{stacks}")])
            if self._left:
                self.queue.appendleft(self._left)
            return
        # A fixture would do the same again, so these tests are not tried again.
        where = self._tests[self._left[0]] if self._left else self._ran[-1] if self._ran else self._tests[0]
        name = classname(where)
        place = "before the first test" if self._left else "after the last test"
        text = f"The process of this class {how}, in a fixture {place}.\nTests without a result: {len(self._left)}\n"
        _add(result, Subject(name, name), self._explained(Outcome("error", text + stacks)))


def _fork(job: Callable[[], int], connections: Iterable[Connection]) -> int:
    """Run `job` in a forked process without `connections`; its result is the exit status. Return the process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = FAILED
    try:
        try:
            for connection in connections:
                connection.close()  # Otherwise the workers would not notice the end of the parent.
            status = job()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
    finally:
        # Also when a signal interrupts the above: otherwise this process would go on with the work of its parent.
        os._exit(status)


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block; a process that is forked in the block delays it until it is ready."""
    arrived: list[int] = []
    # Blocking the signal is not enough: another thread may take it, and Python calls the handler in this one.
    handler = signal.signal(signal.SIGINT, lambda number, _frame: arrived.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler)
    if arrived:
        signal.raise_signal(signal.SIGINT)


def _end(workers: Iterable[_Worker]) -> None:
    """Interrupt the workers that still run, and wait for them; kill those that need too long."""
    pids = set()
    for worker in workers:
        worker.close()
        pids.add(worker.pid)
        os.kill(worker.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while pids:
        if time.monotonic() > deadline:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        ended = {pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0]}
        pids -= ended
        if not ended:
            time.sleep(0.01)


def _add(result: Result, test: Any, outcome: Outcome) -> None:
    """Add an outcome to `result` as if the test, or fixture, had run here."""
    subject: Any = outcome.subject or test
    which = subject.id().removeprefix(test.id())
    result.verdicts.setdefault(test.id(), []).append((outcome.verdict, which))
    # The result counts and shows this error; then the worker's text replaces it.
    kind = AssertionError if outcome.verdict != "error" else RuntimeError
    error: Any = (kind, kind("see the worker's text"), None)
    match outcome.verdict:
        case "passed" if subject is test:
            result.addSuccess(test)
        case "passed":
            result.addSubTest(test, subject, None)
        case "passed unexpectedly":
            result.addUnexpectedSuccess(test)
        case "skipped":
            result.addSkip(subject, outcome.text)
        case "failed as expected":
            result.addExpectedFailure(test, error)
        case "failed" | "error" if subject is not test:
            result.addSubTest(test, subject, error)
        case "failed":
            result.addFailure(test, error)
        case _:
            result.addError(test, error)
    if kept := LISTS.get(outcome.verdict):
        getattr(result, kept)[-1] = (subject, outcome.text)
