"""Isolation: what a test does to the database is undone, and the code under test does not notice.

For the length of a test the service's own database object becomes a `SandboxedDatabase`: all threads share one
connection, inside a transaction that is rolled back at the end. What the service takes for a transaction is a
savepoint in there, and so is every statement outside one, so that a failing statement undoes itself alone, as in
autocommit. The rule: a test inside the sandbox gets the verdict that production would give. What cannot be stood in
for fails the test: see `tests.harness.guard`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peewee import __exception_wrapper__ as peewee_errors
from psycopg2 import Error as DriverError
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, connection, cursor

from shop.storage.database import Database
from shop.storage.sessions import Session
from tests.harness.findings import findings, spending
from tests.harness.guard import INSTEAD, Guard, SandboxError
from tests.harness.tables import delete_rows, tables_with_rows

# How long a thread waits for another's transaction before the test is called deadlocked, in seconds.
PATIENCE = 30


class Sandbox:
    """The transaction around one test, or around the tests of a class that share their data.

    Args:
        database: The service's database object. When it is in a sandbox already, this one is a savepoint in there.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self) -> None:
        """Begin, on the calling thread's connection."""
        outside = getattr(self._database, "pinned", None)
        if outside:
            session = outside.session
        else:
            # Asking for a cursor replaces a connection that an earlier test has lost.
            self._database.cursor().close()
            session = self._database._here.session
        with spending("sandbox"):
            self._enter(session, outside)
        findings.sandboxes += 1

    def _enter(self, session: Session, outside: "_PinnedConnection | None") -> None:
        database, pinned = self._database, session.connection
        self._outside = database.__class__, database._state, outside
        _send(pinned, "SAVEPOINT sandbox" if outside else "BEGIN; SAVEPOINT sandbox")
        self._guard = Guard(pinned)
        database.__class__ = SandboxedDatabase
        database._state = type(database._state)()
        database.pinned = _PinnedConnection(session, self._guard)
        # Open for this thread, as it was outside; other threads begin without a connection, there as here.
        database.connect()

    @spending("sandbox")
    def leave(self) -> None:
        """Undo everything since `enter`, and give the database object back as it was.

        Raises:
            SandboxError: Something got out of the sandbox. Whatever it left is removed.
        """
        database, guard, pinned = self._database, self._guard, self._database.pinned.connection
        guard.release()
        database.__class__, database._state, pinned_outside = self._outside
        if pinned_outside is None:
            del database.pinned
        else:
            database.pinned = pinned_outside
        try:
            _send(pinned, "ROLLBACK TO sandbox; RELEASE sandbox" if pinned_outside else "ROLLBACK TO sandbox; ROLLBACK")
        except DriverError:
            guard.note_lost_transaction()
        guard.release_locks()
        if guard.is_suspicious:
            self._clean_up(pinned)
        if guard.escapes:
            raise SandboxError("\n".join(map(str, guard.escapes)))

    @contextmanager
    def undone(self) -> Iterator[Callable[[], None]]:
        """Undo what happens inside the block, within one test.

        The block gets a function that undoes at once what it has done so far.
        """
        pinned = self._database.pinned.connection
        _send(pinned, "SAVEPOINT undone")
        try:
            yield lambda: _send(pinned, "ROLLBACK TO undone")
        finally:
            _send(pinned, "ROLLBACK TO undone; RELEASE undone")

    def _clean_up(self, pinned: connection) -> None:
        """Make the database as empty as the next test expects it, as seen by everybody."""
        if not pinned.closed and pinned.info.transaction_status != TRANSACTION_STATUS_IDLE and not self._outside[2]:
            _send(pinned, "ROLLBACK")
        tables = tables_with_rows()
        if tables:
            self._guard.note_rows_left(tables)
            delete_rows()


class SandboxedDatabase(Database):
    """The service's database object inside the sandbox; connecting and closing are only noted."""

    pinned: "_PinnedConnection"

    def begin(self, isolation_level: Any = None) -> None:
        """Begin what the service takes for a transaction."""
        if isolation_level is not None:
            self.pinned.guard.refuse(f"a transaction asked for the isolation level {isolation_level}", INSTEAD)
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

    def _take(self, **_: Any) -> Session:
        self._here.session = self.pinned.session
        return self.pinned.session

    def _give(self, session: Session) -> None:
        pass


class _PinnedConnection:
    """The one connection of a test, with at most one transaction of the service in it at a time."""

    def __init__(self, session: Session, guard: Guard) -> None:
        self.session = session
        self.connection = session.connection
        self.guard = guard
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
        if not self.connection.closed:
            _send(self.connection, "ROLLBACK TO application; RELEASE application")
        self._end()

    def _end(self) -> None:
        self._in_transaction = False
        self._turn.release()

    def _take_turn(self) -> None:
        if not self._turn.acquire(timeout=PATIENCE):
            what = f"a thread waited {PATIENCE} s for another's transaction: in a sandbox all share one connection"
            self.guard.refuse(what, INSTEAD)


def _send(conn: connection, statements: str) -> None:
    """Run SQL of the sandbox's own, unseen by query hooks and by the guard."""
    with conn.cursor(cursor_factory=cursor) as plain:
        plain.execute(statements)
