"""Isolation: what a test does to the database is undone, and the code under test does not notice.

For the length of a test the service's own database object becomes a `SandboxedDatabase`: all threads share one
connection, inside a transaction that is rolled back at the end. What the service takes for a transaction is a
savepoint in there, and so is every statement outside one, so that a failing statement undoes itself alone, as in
autocommit. The rule: a test inside the sandbox gets the verdict that production would give.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peewee import __exception_wrapper__ as peewee_errors
from psycopg2.extensions import TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_UNKNOWN, connection

from shop.database import Database

# How long a thread waits for another's transaction before the test is called deadlocked, in seconds.
PATIENCE = 30


class SandboxError(AssertionError):
    """The code under test did what the sandbox cannot stand in for; the text says what to do instead."""


class Sandbox:
    """The transaction around one test.

    Args:
        database: The service's database object.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self) -> None:
        """Begin the transaction, on the calling thread's connection."""
        database = self._database
        pinned = database.connection()
        _send(pinned, "BEGIN")
        self._state_outside = database._state
        database._state = type(database._state)()
        database.__class__ = SandboxedDatabase
        database.pinned = _PinnedConnection(pinned)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo what happens inside the block, within one test."""
        pinned = self._database.pinned.connection
        _send(pinned, "SAVEPOINT undone")
        try:
            yield
        finally:
            _send(pinned, "ROLLBACK TO undone; RELEASE undone")

    def leave(self) -> None:
        """Roll the transaction back and give the database object back as it was.

        Raises:
            SandboxError: The transaction had ended before: a statement got past the sandbox.
        """
        database = self._database
        pinned = database.pinned.connection
        del database.pinned
        database.__class__ = Database
        database._state = self._state_outside
        escaped = not _in_transaction(pinned)
        if not pinned.closed:
            _send(pinned, "ROLLBACK")
        if escaped:
            raise SandboxError(
                "the sandbox's transaction ended during the test: the code under test sent COMMIT or ROLLBACK as plain "
                "SQL, or lost its connection. Use database.atomic(), or test it in a CommittedApiTestCase."
            )


class SandboxedDatabase(Database):
    """The service's database object inside the sandbox; connecting and closing are only noted."""

    pinned: "_PinnedConnection"

    def begin(self, isolation_level: Any = None) -> None:
        """Begin what the service takes for a transaction."""
        if isolation_level is not None:
            raise SandboxError(f"isolation level {isolation_level} needs a CommittedApiTestCase")
        # As outside: the first use of a thread opens its connection.
        self.cursor().close()
        self.pinned.begin()

    def commit(self) -> None:
        """Keep what the service did since `begin`, until the sandbox ends."""
        self.pinned.commit()

    def rollback(self) -> None:
        """Undo what the service did since `begin`, and nothing before it."""
        self.pinned.rollback()

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement, in a savepoint of its own when the service is in no transaction."""
        with self.pinned.statement():
            return super().execute_sql(sql, params)

    def _connect(self) -> connection:
        return self.pinned.connection

    def _close(self, conn: connection) -> None:
        pass


class _PinnedConnection:
    """The one connection of a test, with at most one transaction of the service in it at a time."""

    def __init__(self, pinned: connection) -> None:
        self.connection = pinned
        self._turn = threading.RLock()
        self._in_transaction = False

    @contextmanager
    def statement(self) -> Iterator[None]:
        """Stand in for autocommit, unless the calling thread is in a transaction."""
        self._take_turn()
        try:
            if self._in_transaction:
                yield
                return
            self.begin()
            try:
                yield
            except BaseException:
                self.rollback()
                raise
            self.commit()
        finally:
            self._turn.release()

    def begin(self) -> None:
        self._take_turn()
        if self._in_transaction:
            # PostgreSQL only warns of a second BEGIN.
            self._turn.release()
            return
        _send(self.connection, "SAVEPOINT application")
        self._in_transaction = True

    def commit(self) -> None:
        """Release the savepoint, after the checks that PostgreSQL makes at COMMIT.

        Raises:
            peewee.IntegrityError: A deferred constraint does not hold; the transaction is rolled back.
        """
        if not self._in_transaction:
            return
        if self.connection.info.transaction_status == TRANSACTION_STATUS_INERROR:
            # PostgreSQL answers COMMIT in a failed transaction with a rollback, and no error.
            self.rollback()
            return
        try:
            with peewee_errors:
                # Checks deferred constraints, and leaves them deferred as they were.
                _send(
                    self.connection,
                    "SAVEPOINT checked; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK TO checked; RELEASE application",
                )
        except BaseException:
            self.rollback()
            raise
        self._end()

    def rollback(self) -> None:
        if not self._in_transaction:
            return
        # A lost connection has nothing left to undo; `Sandbox.leave` will say so.
        if _in_transaction(self.connection):
            _send(self.connection, "ROLLBACK TO application; RELEASE application")
        self._end()

    def _end(self) -> None:
        self._in_transaction = False
        self._turn.release()

    def _take_turn(self) -> None:
        if not self._turn.acquire(timeout=PATIENCE):
            raise SandboxError(
                f"a thread waited {PATIENCE} s for another's transaction: inside the sandbox all threads share one "
                "connection. Test it in a CommittedApiTestCase."
            )


def _send(conn: connection, statements: str) -> None:
    """Run SQL of the sandbox's own, unseen by query hooks."""
    with conn.cursor() as cursor:
        cursor.execute(statements)


def _in_transaction(conn: connection) -> bool:
    return conn.info.transaction_status not in (TRANSACTION_STATUS_UNKNOWN, 0)
