"""The connection pool: sessions, which are connections with their prepared statements.

A statement takes a session from the pool and gives it back (see `shop.storage.database`). The pool returns the session
that was used last, so that few server processes do most of the work and stay in the processor's caches. It sends no
query to test a session: that would double the round trips of most requests.
"""

import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection


class Session(connection):
    """A connection of the driver, in autocommit, and its state.

    Attributes:
        pool: The pool that it belongs to.
        prepared: The EXECUTE of each prepared statement, by the name of the statement.
        waiting_since: When the running statement was sent (`time.perf_counter`); None while no statement runs.
        was_cut: Whether a statement timed out, so that the connection was closed.
    """

    pool: "SessionPool"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.prepared: dict[str, str] = {}
        self.waiting_since: float | None = None
        self.was_cut = False
        self._generation = 1
        self._poll = select.poll()
        self._poll.register(self.fileno(), select.POLLIN)

    @property
    def has_ended(self) -> bool:
        """Whether the server has closed an idle connection. A notice from the server, which is rare, counts too."""
        return bool(self.closed or self._poll.poll(0))

    def name_of(self, name: str) -> str:
        """Return the name that the statement `name` has on this connection."""
        return f"{name}_{self._generation}"

    def forget_prepared(self) -> None:
        """Prepare every statement again under a new name: the old ones are lost or out of date."""
        self.prepared.clear()
        self._generation += 1


class SessionPool:
    """The idle sessions of a process; the one that was used last is taken first.

    Args:
        open_session: Opens a session.
        size: The maximum number of idle sessions.
    """

    def __init__(self, open_session: Callable[[], Session], size: int) -> None:
        self._open_session = open_session
        self._size = size
        self._idle: deque[Session] = deque()
        self._is_closed = False

    def take(self, *, check_alive: bool = False, fresh: bool = False) -> Session:
        """Return an idle session, or a new one if no session is idle.

        Args:
            check_alive: Whether to skip sessions that the server has closed, for example in a restart. Reads do not
                need that, because they are retried.
            fresh: Whether to open a new session in any case.

        Raises:
            psycopg2.OperationalError: The server refused the connection, or did not answer.
        """
        while self._idle and not fresh:
            try:
                session = self._idle.pop()
            except IndexError:
                break  # Another thread was faster.
            if not (session.has_ended if check_alive else session.closed):
                return session
            session.close()
        session = self._open_session()
        session.pool = self
        return session

    def give(self, session: Session) -> None:
        """Take a session back. Close it if it is broken, has an open transaction, or the pool is full."""
        if session.closed:
            self._drop_ended()
        elif (
            self._is_closed
            or len(self._idle) >= self._size
            or session.get_transaction_status() != TRANSACTION_STATUS_IDLE
        ):
            session.close()
        else:
            self._idle.append(session)

    def close(self) -> None:
        """Close the idle sessions now, and the others when they are given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def _drop_ended(self) -> None:
        """Drop the sessions that ended together with a broken one: a restart of the server ends all."""
        # A session is checked only by the thread that has taken it: two threads must not poll one at the same time.
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._idle.popleft())
        for session in taken:
            if session.has_ended:
                session.close()
            else:
                self._idle.append(session)
