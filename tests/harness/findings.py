"""What a process of the run notes beside verdicts, for the parent to add up: answers got, callers tried, time spent.

The harness notes things here as the tests run; a worker sends its notes to the parent at its end. What is made of them
is for `tests.harness.gates` (what a whole run must show) and `tests.harness.report`.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# An answer of an operation: its id, the status, and the code of an error (None for a success).
Answer = tuple[str, int, str | None]


@dataclass
class Findings:
    """Notes that can be added up."""

    # Every answer of the API that a test got, and how often.
    answers: Counter[Answer] = field(default_factory=Counter)
    # The ids of the operations of which a test sent several requests at the same moment.
    raced: set[str] = field(default_factory=set)
    # What each caller of the access matrix got, by operation ("GET /orders/{order_id}") and caller.
    access: dict[tuple[str, str], str] = field(default_factory=dict)
    # How the receivers of `tests.harness.receiver` answered, and how often.
    received: Counter[str] = field(default_factory=Counter)
    # How many files tests left in the directories of `KitTestCase.directory`, by the ending of their names.
    files: Counter[str] = field(default_factory=Counter)
    sandboxes: int = 0  # that were entered: for each test, and for the data of a class
    statements: int = 0  # that the service sent to its database, in the processes of the tests
    # Time spent, by phase ("tests" or "fixtures") and by what it was spent on; each second once.
    seconds: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def clear(self) -> None:
        """Forget all notes: a worker begins with none."""
        vars(self).update(vars(Findings()))

    def add(self, others: "Findings") -> None:
        """Add the notes of another process."""
        self.answers += others.answers
        self.raced |= others.raced
        self.access |= others.access
        self.received += others.received
        self.files += others.files
        self.sandboxes += others.sandboxes
        self.statements += others.statements
        for spent, seconds in others.seconds.items():
            self.seconds[spent] += seconds

    def spent_on(self, kind: str) -> float:
        """Return the seconds spent on something, in tests and in fixtures."""
        return sum(seconds for (_, each), seconds in self.seconds.items() if each == kind)


findings = Findings()
phase = "fixtures"  # until the first test begins
# What the main thread is spending its time on, innermost last; of each, the seconds that others within it have taken.
_within: list[float] = []


def enter(new_phase: str) -> None:
    """Say whether a test runs from now on, or fixtures."""
    global phase  # noqa: PLW0603 - one test runs at a time in a process.
    phase = new_phase


def spend(kind: str, seconds: float, noted: float = 0.0) -> None:
    """Note that the main thread has spent time on something, of which `noted` seconds are noted for something else."""
    if threading.current_thread() is threading.main_thread():
        findings.seconds[phase, kind] += seconds - noted
        if _within:
            _within[-1] += seconds


@contextmanager
def spending(kind: str) -> Iterator[None]:
    """Note the time of the block or function, without what is noted within it, if the main thread runs it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    started = time.perf_counter()
    _within.append(0.0)
    try:
        yield
    finally:
        inner = _within.pop()
        spend(kind, time.perf_counter() - started, inner)
