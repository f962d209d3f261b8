"""Timeouts for a database server that is reachable but silent: stopped, swapping, or behind a network that drops all.

A server that has gone is noticed at once, and a busy one keeps its own timeout for statements. A silent server does
neither, and libpq waits for it without end. `StatementWatch` ends such a wait, and `ConnectGate` spares the next
requests the same wait.
"""

import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg2 import Error, OperationalError

from shop.storage.sessions import Session

# How much longer than the server's own timeout a statement may take, in seconds: normally the server ends it first.
MARGIN = 1.0
# How often the running statements are checked, in seconds.
INTERVAL = 0.25
# An attempt to connect that fails after this many seconds met a silent server; a refusal comes at once.
SILENCE = 1.0


class ConnectGate:
    """Lets one thread at a time connect to a server that has not answered; the others get an error at once.

    Otherwise each of them would wait for the whole timeout.

    Attributes:
        is_silent: Whether the server did not answer the last time.
    """

    def __init__(self) -> None:
        self.is_silent = False
        self._one_tries = threading.Lock()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Surround an attempt to connect.

        Raises:
            OperationalError: The server was silent, and another thread is trying it.
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
    """Closes the connection of a statement that has run for longer than its timeout.

    This costs a statement two assignments. A wait callback, the driver's own way, would cost a fifth of its time.

    Args:
        timeout: Longest run of a statement by the server's own clock, in seconds.
        gate: Learns that the server is silent.
    """

    def __init__(self, timeout: float, gate: ConnectGate) -> None:
        self._timeout = timeout
        self._gate = gate
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, session: Session) -> None:
        """Watch a session from now on, for as long as it lives."""
        with self._lock:
            self._sessions.add(session)
            # A fork takes no threads along, so the process that connects starts its own.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="statement timeouts", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL):
            self.check()

    def check(self) -> None:
        """Close the connections of all statements that are over their timeout."""
        latest = time.perf_counter() - self._timeout - MARGIN
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            since = session.waiting_since
            if since is not None and since < latest:
                self._cut(session)

    def _cut(self, session: Session) -> None:
        session.was_cut = True
        self._gate.is_silent = True
        # The waiting thread sees the end of the connection, and goes on as after any loss. Closing the descriptor here
        # would leave that thread waiting, and the descriptor's number free for another connection.
        with suppress(Error, OSError), socket.socket(fileno=socket.dup(session.connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
