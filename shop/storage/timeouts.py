"""Timeouts for a database server that is silent: stopped, swapping, or behind a network that drops packets.

The driver notices at once that a server has gone, and a busy server enforces its own statement timeout. But libpq waits
for a silent server without a limit. `StatementTimeout` ends such a wait. `ConnectBreaker`, a circuit breaker, keeps the
next requests from waiting, too.
"""

import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg2 import Error, OperationalError

from shop.storage.sessions import Session

# Seconds that this timeout is longer than the server's own: normally the server ends a statement first.
MARGIN = 1.0
# Seconds between two checks of the running statements.
INTERVAL = 0.25
# If connecting fails after more than this many seconds, the server is silent: a refusal comes at once.
SILENCE = 1.0


class ConnectBreaker:
    """A circuit breaker: lets one thread at a time connect to a silent server; the others get an error at once.

    Otherwise each thread would wait for the whole connect timeout.

    Attributes:
        is_silent: Whether the last attempt to connect, or the last statement, timed out.
    """

    def __init__(self) -> None:
        self.is_silent = False
        self._attempt_lock = threading.Lock()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Guard an attempt to connect, which the block makes.

        Raises:
            OperationalError: The server is silent, and another thread is trying to connect.
        """
        holds_lock = self.is_silent
        if holds_lock and not self._attempt_lock.acquire(blocking=False):
            raise OperationalError("the server has not answered; another thread is trying to connect")
        began = time.monotonic()
        try:
            yield
            self.is_silent = False
        except OperationalError:
            self.is_silent = self.is_silent or time.monotonic() - began > SILENCE
            raise
        finally:
            if holds_lock:
                self._attempt_lock.release()


class StatementTimeout:
    """Closes the connection of each statement that exceeds its timeout.

    This costs two assignments per statement. The driver's wait callback would make statements a fifth slower.

    Args:
        timeout: The server's own statement timeout, in seconds.
        breaker: It is opened when a statement times out.
    """

    def __init__(self, timeout: float, breaker: ConnectBreaker) -> None:
        self._timeout = timeout
        self._breaker = breaker
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, session: Session) -> None:
        """Watch the statements of a session until it is garbage-collected."""
        with self._lock:
            self._sessions.add(session)
            # A forked process has no copy of the thread, so it starts its own.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="statement timeouts", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL):
            self.check()

    def check(self) -> None:
        """Close the connection of each statement that has exceeded its timeout."""
        latest = time.perf_counter() - self._timeout - MARGIN
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            since = session.waiting_since
            if since is not None and since < latest:
                self._cut(session)

    def _cut(self, session: Session) -> None:
        session.was_cut = True
        self._breaker.is_silent = True
        # The waiting thread then gets an error, as after any lost connection. Closing the descriptor would not wake it,
        # and another connection could get the same descriptor.
        with suppress(Error, OSError), socket.socket(fileno=socket.dup(session.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
