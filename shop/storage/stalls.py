"""A database server that is there and says nothing: stopped, swapping, or behind a network that drops everything.

A server that has gone is noticed at once, and one that is busy keeps its own time limit on statements. One that is
silent does neither, and libpq waits for it without end. `StatementWatch` ends such a wait from outside, and `Entrance`
spares the requests that follow the same wait.
"""

import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg2 import Error, OperationalError

from shop.storage.sessions import Session
from shop.storage.watchdog import Watchdog

# How much longer than the server's own limit a statement is waited for, in seconds: the server's word comes first.
MARGIN = 1.0
# How often the running statements are looked at, in seconds.
EVERY = 0.25
# An attempt to connect that fails after this many seconds met silence; a refusal comes at once.
SILENCE = 1.0


class Entrance:
    """Lets one thread at a time try a server that has not answered; the others are told at once.

    Each of them would wait for the whole time limit, and those queued behind them once more for each before them.

    Attributes:
        is_silent: Whether the server did not answer when it was last spoken to.
    """

    def __init__(self) -> None:
        self.is_silent = False
        self._one_tries = threading.Lock()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Surround an attempt to connect.

        Raises:
            OperationalError: The server was silent, and another thread finds out whether it still is.
        """
        tries_alone = self.is_silent
        if tries_alone and not self._one_tries.acquire(blocking=False):
            raise OperationalError("the server has not answered; another thread is trying it")
        began = time.monotonic()
        try:
            yield
            self.is_silent = False
        except OperationalError:
            self.is_silent = self.is_silent or time.monotonic() - began > SILENCE
            raise
        finally:
            if tries_alone:
                self._one_tries.release()


class StatementWatch:
    """Hangs up on a server that has been silent for longer than a statement may take.

    That costs a statement two assignments. A wait callback, the driver's own way to a time limit on our side, would
    cost every statement a fifth of its time.

    Args:
        limit: Longest run of a statement by the server's own clock, in seconds.
        entrance: Told that the server is silent.
    """

    def __init__(self, limit: float, entrance: Entrance) -> None:
        self._limit = limit
        self._entrance = entrance
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._changing = threading.Lock()
        self._watchdog = Watchdog(self._look, every=EVERY)

    def add(self, session: Session) -> None:
        """Watch a session from now on, for as long as it lives."""
        with self._changing:
            self._sessions.add(session)
        self._watchdog.watch()

    def _look(self) -> None:
        latest = time.perf_counter() - self._limit - MARGIN
        with self._changing:
            sessions = list(self._sessions)
        for session in sessions:
            since = session.waiting_since
            if since is not None and since < latest:
                self._cut(session)

    def _cut(self, session: Session) -> None:
        session.was_cut = True
        self._entrance.is_silent = True
        # The thread that waits sees the end of the connection, and goes on as after any loss. Closing the descriptor
        # here would leave it waiting, and its number free for another.
        with suppress(Error, OSError), socket.socket(fileno=socket.dup(session.connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
