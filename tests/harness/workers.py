"""Runs tests in worker processes and repeats their reports into one result.

Every run of `scripts/test` uses workers: one that runs all tests in order, or several with `--parallel`. So a test that
hangs, or ends its process, is named, and the other tests still run. A class is never split, because its fixtures belong
to one process. A class or module that says `parallel = False` runs after all others, in a worker of its own.

Workers are forked, so tests need not be found again by name: attributes that `load_tests` has set are there.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import tempfile
import time
import unittest
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.harness.order import Group, Plan, classname, order_options
from tests.harness.results import PROGRAM, Result
from tests.harness.worker import END_SIGNALS, Job, Outcome, Report, work

# Seconds that interrupted workers have to clean up, all together.
GRACE = 10.0
LISTS = {"failed": "failures", "error": "errors", "failed as expected": "expectedFailures"}
_FORK = multiprocessing.get_context("fork")


class Workers(unittest.TestSuite):
    """A suite that runs the tests of a plan in workers; see `Job` for the options and the limit."""

    def __init__(self, plan: Plan, options: Mapping[str, Any], limit: float) -> None:
        super().__init__()
        self.interrupted = False  # by Ctrl-C
        self._plan = plan
        self._job = Job(plan.tests, options, limit)

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
        while not result.shouldStop:
            for place, queue in enumerate(queues):
                if queue and not any(worker.place == place for worker in workers):
                    others = [worker.connection for worker in workers]
                    with _interrupted_later():
                        workers.append(_Worker(self._job, queue, place, others, several=len(queues) > 1))
            if not workers:
                return
            ready = wait([handle for worker in workers for handle in (worker.connection, worker.end)])
            for worker in list(workers):
                with _interrupted_later():  # A message that was read is not lost.
                    if not worker.attend(ready, result):
                        workers.remove(worker)


class _Worker:
    """A worker as the parent sees it. `connection` and `end`, the end of its process, can be waited for."""

    def __init__(
        self, job: Job, queue: deque[Group], place: int, others: Iterable[Connection], *, several: bool
    ) -> None:
        self.place = place  # the number of its queue
        self.running: unittest.TestCase | None = None
        self._queue = queue
        self._tests = job.tests
        self._several = several
        self._left: list[int] = []  # the tests of its group that did not begin
        self._ran: list[unittest.TestCase] = []
        self._is_done = False
        self._stacks = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it.
        self.connection, theirs = _FORK.Pipe()
        arguments = (job, theirs, [self.connection, *others], self._stacks)
        self.process = _FORK.Process(target=work, args=arguments)
        self.process.start()
        theirs.close()
        try:
            self.end = os.pidfd_open(self.process.pid or 0)
        except (AttributeError, OSError):
            # Not every system has that. A process that a test forks, and that outlives the worker, keeps this one open.
            self.end = self.process.sentinel
        self._take()

    def _take(self) -> None:
        """Hand out the next group, or None if there is no more."""
        self._left = list(self._next()) if self._queue else []
        with contextlib.suppress(OSError):  # It is dead; `attend` will notice.
            self.connection.send(tuple(self._left) or None)

    def _next(self) -> Group:
        # A group of the same module comes first: the module's fixtures are set up here.
        here = type(self._ran[-1]).__module__ if self._ran else None
        group = next((each for each in self._queue if type(self._tests[each[0]]).__module__ == here), self._queue[0])
        self._queue.remove(group)
        return group

    def attend(self, ready: Collection[object], result: Result) -> bool:
        """Take one message into `result`, if there is one; return False if the worker has ended."""
        if self.connection not in ready:
            return self.end not in ready or self._bury(result)
        try:
            report = self.connection.recv()
        except (EOFError, OSError):
            return self._bury(result)
        except Exception as error:
            return self._bury(result, f"sent a message that cannot be read ({error!r})")
        if not self._fits(report):
            return self._bury(result, f"sent a message that was not expected ({getattr(report, 'event', report)!r})")
        self._take_in(report, result)
        return not self._is_done or self._bury(result)

    def hear_rest(self, result: Result) -> None:
        """Take the messages that have arrived."""
        with contextlib.suppress(Exception):  # The worker may have been interrupted in the middle of one.
            while self.connection.poll() and self._fits(report := self.connection.recv()):
                self._take_in(report, result)

    def _fits(self, report: object) -> bool:
        """Tell whether `report` can follow the ones before it: another process may write to the pipe as well."""
        match report:
            case Report("started", index):
                return self.running is None and index in self._left
            case Report("finished", index):
                return index < len(self._tests) and self.running is self._tests[index]
            case Report("idle"):
                return self.running is None
            case Report("done"):
                return self.running is None and not self._left
        return False

    def _take_in(self, report: Report, result: Result) -> None:
        result.seconds.update(report.seconds)
        result.findings.add(report.findings)
        if report.event == "finished":
            self._finish(result, report.outcomes)
            return
        for outcome in report.outcomes:
            _add(result, outcome, self._explained(outcome))
        if report.event == "started":
            self.running = self._tests[report.index]
            self._left.remove(report.index)
            if not self._several:
                result.startTest(self.running)
        elif report.event == "idle":
            self._take()
        self._is_done = report.event == "done"

    def _finish(self, result: Result, outcomes: Iterable[Outcome]) -> None:
        test, self.running = self.running, None
        assert test is not None
        if self._several:
            result.startTest(test)
        for outcome in outcomes:
            _add(result, test, self._explained(outcome))
        result.stopTest(test)
        self._ran.append(test)

    def _explained(self, outcome: Outcome) -> Outcome:
        """Add to a failure what ran before it in this worker; in one worker, the order of the run says that."""
        if not self._several or outcome.verdict not in ("failed", "error") or not self._ran:
            return outcome
        names = " ".join(dict.fromkeys(classname(test) for test in self._ran))
        command = " ".join(filter(None, [PROGRAM, order_options(), names]))
        return dataclasses.replace(outcome, text=f"{outcome.text}ran before it in its worker: {command}\n")

    def _bury(self, result: Result, fault: str = "") -> bool:
        """Report the end of a worker, unless it was done; the rest of its group goes to another one. Return False.

        A worker with a `fault` is stopped.
        """
        code, stacks = self.close(0.0 if fault else GRACE)
        if self._is_done:
            return False
        if fault:
            how = f"{fault} and was stopped"
        elif code == -signal.SIGALRM:
            how = "took longer than its time limit and was stopped"
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with status {code}"
        if self.running is not None:
            text = f"The process of this test {how}.\n{stacks}"
            self._finish(result, [Outcome("error", self.running.id(), text=text)])
            if self._left:
                self._queue.appendleft(self._left)
            return False
        # A fixture would do the same again, so these tests are not tried again.
        where = self._tests[self._left[0]] if self._left else self._ran[-1] if self._ran else self._tests[0]
        place = "before the first test" if self._left else "after the last test"
        text = f"The process of this class {how}, in a fixture {place}.\nTests without a result: {len(self._left)}\n"
        name = classname(where)
        outcome = Outcome("error", name, name, text=text + stacks)
        _add(result, outcome, self._explained(outcome))
        return False

    def close(self, patience: float) -> tuple[int | None, str]:
        """Return the exit status and the stacks; kill the process if it does not end within `patience` seconds."""
        wait([self.end], patience)
        self.process.kill()
        self.process.join()
        if self.end != self.process.sentinel:
            os.close(self.end)
        self.connection.close()
        with self._stacks as file:
            file.seek(0)
            return self.process.exitcode, file.read()


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
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + GRACE
    for worker in workers:
        worker.close(max(0.0, deadline - time.monotonic()))


def _add(result: Result, test: Any, outcome: Outcome) -> None:
    """Add an outcome to `result` as if the test, or fixture, had run here."""
    subject: Any = test if outcome.name == test.id() else outcome
    which = outcome.name.removeprefix(test.id())
    result.verdicts.setdefault(test.id(), []).append((outcome.verdict, which))
    # The result counts and shows this error; then the worker's text replaces it.
    kind = AssertionError if outcome.verdict != "error" else RuntimeError
    error: Any = (kind, kind("see the worker's text"), None)
    match outcome.verdict:
        case "passed":
            result.addSuccess(test)
        case "passed unexpectedly":
            result.addUnexpectedSuccess(test)
        case "skipped":
            result.addSkip(subject, outcome.text)
        case "failed as expected":
            result.addExpectedFailure(test, error)
        case _ if subject is not test:
            result.addSubTest(test, subject, error)
        case "failed":
            result.addFailure(test, error)
        case _:
            result.addError(test, error)
    if kept := LISTS.get(outcome.verdict):
        getattr(result, kept)[-1] = (subject, outcome.text)
