"""How long a request may have waited for a thread.

The server queues requests that find no free thread, first come, first served, and does not tell since when. But a
request cannot have waited for longer than

- since a thread was last idle, or was not there yet: then the queue was empty;
- since the request began that is as many before it as there are connections: each has one request at a time, so that
  one had been answered when this one came.
"""

import itertools
import os
import threading
from collections.abc import Callable
from time import perf_counter
from weakref import ref

# A thread that got its request later than this after the one before, in seconds, had none to take. Threads that take
# turns in running Python wait for each other for less.
IDLE = 0.01
# When a thread ends the request that it is at.
BUSY = float("inf")
# How many begins of requests are remembered: more than there are files that a process may usually open.
REMEMBERED = 1024


class _State:
    """What a thread is at: when it ended its last request, or that it is at one."""

    __slots__ = ("__weakref__", "ended")

    def __init__(self) -> None:
        self.ended = float("-inf")


class Backlog:
    """Notes when the threads of a process begin and end requests.

    Every request pays for what is done here, so it is written to be quick.

    Args:
        limit: The longest wait, in seconds.
        threads: How many threads there may be; the server makes them as they are needed.
        connections: Returns how many connections are open, or more.
        clock: Returns the time, in seconds.
    """

    def __init__(
        self,
        limit: float,
        threads: int,
        connections: Callable[[], int] | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._limit = limit
        self._connections = connections or _open_files
        self._clock = clock
        self._threads = threads
        self._here = threading.local()
        # A thread that ends takes its own along.
        self._states: set[ref[_State]] = set()
        self._numbers = itertools.count()
        self._begun = [float("-inf")] * REMEMBERED
        self._was_empty = float("-inf")

    def begin(self) -> bool:
        """Note that the calling thread begins a request, and tell whether that may have waited for too long."""
        try:
            state = self._here.state
        except AttributeError:
            state = self._here.state = _State()
            self._states.add(ref(state, self._states.discard))
        now = self._clock()
        number = next(self._numbers)
        if now - state.ended > IDLE:
            self._was_empty = now
        state.ended = BUSY
        place = number % REMEMBERED
        oldest, self._begun[place] = self._begun[place], now
        late = now - self._limit
        # What takes longest comes last; where requests are many, nobody comes to it.
        return (
            self._was_empty < late and oldest < late and self._may_wait_since(number) < late and not self._any_idle(now)
        )

    def end(self) -> None:
        """Note that the calling thread has ended its request."""
        self._here.state.ended = self._clock()

    def _any_idle(self, now: float) -> bool:
        # A copy, made in one step: threads come and go.
        states = [state for known in self._states.copy() if (state := known()) is not None]
        return len(states) < self._threads or any(now - state.ended > IDLE for state in states)

    def _may_wait_since(self, number: int) -> float:
        return self._begun[(number - min(self._connections(), REMEMBERED - 1)) % REMEMBERED]


def _open_files() -> int:
    """Return how many files this process has open, connections among them."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return REMEMBERED
