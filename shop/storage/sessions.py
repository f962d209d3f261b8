"""Sessions with PostgreSQL: a connection with what is prepared on it, and the pool of a process.

A statement takes a session from the pool and gives it back (see `shop.storage.database`). The pool hands out the
session that was used last, so that few server processes do most of the work and stay in the processor's caches. It
never asks the server whether a session still works: that would double the round trips of most requests.
"""

import select
from collections import deque
from collections.abc import Callable

from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection


class Session:
    """One connection, and what is known about it.

    Args:
        conn: The driver's connection, in autocommit.
        pool: Where the session is given back.

    Attributes:
        prepared: For each prepared statement, by its name, the EXECUTE that runs it.
        waiting_since: When the running statement was sent, by `time.perf_counter`; None while none runs.
        was_cut: Whether the connection was given up because the server did not answer.
    """

    def __init__(self, conn: connection, pool: "SessionPool") -> None:
        self.connection = conn
        self.pool = pool
        self.prepared: dict[str, str] = {}
        self.waiting_since: float | None = None
        self.was_cut = False
        self._generation = 1
        self._poll = select.poll()
        self._poll.register(conn.fileno(), select.POLLIN)

    @property
    def is_lost(self) -> bool:
        """Whether the driver has noticed that the connection has ended; the server is not asked."""
        return bool(self.connection.closed)

    @property
    def has_ended(self) -> bool:
        """Whether the server has closed an idle connection. A notice from the server, which is rare, counts too."""
        return self.is_lost or bool(self._poll.poll(0))

    def name_of(self, name: str) -> str:
        """Return what the statement `name` is called on this connection."""
        return f"{name}_{self._generation}"

    def forget_prepared(self) -> None:
        """Prepare every statement again, under new names: the old ones are lost or out of date."""
        self.prepared.clear()
        self._generation += 1


class SessionPool:
    """The idle sessions of a process, the one used last on top.

    Args:
        open_session: Opens a session of the given pool.
        size: How many idle sessions are kept.
    """

    def __init__(self, open_session: "Callable[[SessionPool], Session]", size: int) -> None:
        self._open_session = open_session
        self._size = size
        self._idle: deque[Session] = deque()
        self._is_closed = False

    def take(self, *, look: bool = False, fresh: bool = False) -> Session:
        """Return an idle session, or a new one if there is none.

        Args:
            look: Whether to pass over sessions that the server has ended in the meantime, as a restart does. A read
                can do without: it is sent again.
            fresh: Whether to open a new one in any case.

        Raises:
            psycopg2.OperationalError: The server refused, or did not answer.
        """
        while self._idle and not fresh:
            try:
                session = self._idle.pop()
            except IndexError:
                break  # Another thread was faster.
            if not (session.has_ended if look else session.is_lost):
                return session
            session.connection.close()
        return self._open_session(self)

    def give(self, session: Session) -> None:
        """Take a session back. It is closed if it is broken, in the middle of a transaction, or one too many."""
        conn = session.connection
        if conn.closed:
            self._drop_ended()
        elif (
            self._is_closed or len(self._idle) >= self._size or conn.get_transaction_status() != TRANSACTION_STATUS_IDLE
        ):
            conn.close()
        else:
            self._idle.append(session)

    def close(self) -> None:
        """Close the idle sessions, and from now on each one that is given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().connection.close()

    def _drop_ended(self) -> None:
        """Drop the sessions that ended together with a broken one: a restart of the server ends all."""
        for session in list(self._idle):
            if session.has_ended:
                try:
                    self._idle.remove(session)
                except ValueError:
                    continue  # Another thread took it.
                session.connection.close()
