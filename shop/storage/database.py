"""The database: statements that are compiled once, prepared once a connection, and sent through Peewee.

Each statement takes a session from the pool of its process for as long as it runs. So a request that waits for
something else, such as a password hash, holds no connection, and a process has few connections however many threads
it has. A thread that connects by itself (`connect`, `atomic`, Peewee's own queries) keeps its session until `close`.
"""

import math
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

from peewee import SQL, DatabaseError, InterfaceError, OperationalError, PeeweeException, PostgresqlDatabase, Select

# Peewee's translation of the driver's errors. It is not in Peewee's documentation; only this module uses it.
from peewee import __exception_wrapper__ as peewee_errors  # type: ignore[attr-defined]
from psycopg2.extensions import UNICODE, connection, new_type, register_type
from psycopg2.extras import register_default_jsonb

from shop import exactjson
from shop.settings import Settings
from shop.storage.sessions import Session, SessionPool
from shop.storage.stalls import ConnectGate, StatementWatch
from shop.storage.statements import Statement

Row = tuple[Any, ...]
# What `shop.app` maps to a response: whatever Peewee and the driver below it raise.
Error = PeeweeException
FOREIGN_KEY_VIOLATION = "23503"
READ_ONLY_TRANSACTION = "25006"
UNDEFINED_TABLE = "42P01"
_SERVER_FAILURE = "XX"
# PostgreSQL's codes for a prepared statement that is gone (DISCARD ALL), or whose table has changed since.
_OUTDATED = ("26000", "0A000")
# PostgreSQL's codes for a statement that it rolled back because of another one: serialization_failure and
# deadlock_detected.
_ROLLED_BACK = ("40001", "40P01")
# How often a statement is sent at most.
_ATTEMPTS = 3
_UUID_OID = 2950
_UUID_AS_TEXT = new_type((_UUID_OID,), "UUID", UNICODE)


class Database(PostgresqlDatabase):
    """Peewee's PostgreSQL database with a pool of sessions.

    Attributes:
        prepares: Whether statements are prepared on the server.
        connection_hooks: Called with each new connection of the driver.
    """

    prepares = True
    connection_hooks: ClassVar[list[Callable[[connection], None]]] = []
    _state: Any  # Peewee's, of the calling thread: its connection and its transactions.

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._here = threading.local()
        self._use(size=1, patience=1, statement_timeout=math.inf)

    def configure(self, settings: Settings) -> None:
        """Say where the database is; nothing is connected yet.

        Raises:
            ValueError: `settings` has no database URL.
        """
        if settings.database_url is None:
            raise ValueError("settings.database_url is required")
        self.close_all()
        self.prepares = settings.prepared_statements
        self._use(
            size=settings.database_connections,
            patience=settings.connect_timeout,
            statement_timeout=settings.statement_timeout,
        )
        self.init(settings.database_url.get_secret_value(), **connect_options(settings))

    def _use(self, *, size: int, patience: float, statement_timeout: float) -> None:
        self._size = size
        self._pool = SessionPool(self._open, size)
        # A statement holds one of these while it runs. The queue is written in C: a semaphore costs ten times as much.
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(size):
            self._permits.put(None)
        self._patience = patience
        self._gate = ConnectGate()
        self._watch = StatementWatch(statement_timeout, self._gate)

    def rows(self, statement: Statement, **values: object) -> list[Row]:
        """Run `statement` with a value for each of its slots and return its rows.

        Outside a transaction the statement is sent again, twice at most, if that is safe: a SELECT whose connection
        was lost (on a new connection), and any statement that PostgreSQL refused because the prepared statement was out
        of date, or rolled back because of another transaction (a deadlock).

        Raises:
            Error: Peewee's exception for what PostgreSQL or the driver said; see `is_outage`.
        """
        parameters = statement.bind(values)
        attempt = 1
        while True:
            try:
                return self._run(statement, parameters, fresh=attempt > 1 and statement.repeatable)
            except Error as error:
                if attempt == _ATTEMPTS or not self._may_run_again(statement, error):
                    raise
            attempt += 1

    def row(self, statement: Statement, **values: object) -> Row | None:
        """Run `statement` as `rows` does and return its first row, or None if it has none."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def ping(self) -> None:
        """Ask the server for an answer.

        Raises:
            Error: The server gave none.
        """
        self.rows(_PING)

    def _run(self, statement: Statement, parameters: list[object], *, fresh: bool) -> list[Row]:
        """Run a statement on the thread's own session, or on one from the pool."""
        state = self._state
        if not state.closed:
            session: Session = self._here.session
            if state.transactions or not (session.is_lost if statement.repeatable else session.has_ended):
                return self._send(session, statement, parameters)
            self.close()
        try:
            self._permits.get(timeout=self._patience)
        except Empty:
            raise OperationalError("no database connection became free in time") from None
        try:
            session = self._take(look=not statement.repeatable, fresh=fresh)
            # What `connect` and `close` do, without their locks: every statement pays for this.
            state.set_connection(session.connection)
            try:
                return self._send(session, statement, parameters)
            finally:
                state.reset()
                self._give(session)
        finally:
            self._permits.put(None)

    def _send(self, session: Session, statement: Statement, parameters: list[object]) -> list[Row]:
        session.waiting_since = time.perf_counter()
        try:
            if self.prepares:
                execute = session.prepared.get(statement.name) or self._prepare(session, statement)
            else:
                execute = statement.sql
            cursor = self.execute_sql(execute, parameters)
            rows: list[Row] = cursor.fetchall() if cursor.description else []
        except Error as error:
            if sqlstate(error) in _OUTDATED:
                session.forget_prepared()
            raise
        finally:
            session.waiting_since = None
        return rows

    def _prepare(self, session: Session, statement: Statement) -> str:
        """Prepare a statement and return the EXECUTE that runs it."""
        name = session.name_of(statement.name)
        self.execute_sql(f"PREPARE {name} AS {statement.numbered}")
        # The statement stays prepared, also when the transaction around it is rolled back.
        execute = session.prepared[statement.name] = f"EXECUTE {name}{statement.arguments}"
        return execute

    def _may_run_again(self, statement: Statement, error: PeeweeException) -> bool:
        """Tell whether a statement that failed had no effect and may succeed now."""
        if self.in_transaction():
            return False
        code = sqlstate(error)
        if code in _OUTDATED:
            return self.prepares
        if code in _ROLLED_BACK:
            return True
        session: Session | None = self._here.session
        # A read that waited for a silent server is not repeated: a second wait would exceed the time limit.
        return statement.repeatable and session is not None and session.is_lost and not session.was_cut

    # -- what Peewee calls, or its users ------------------------------------------------------------------------------

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Connect this thread, as Peewee does; `close` gives the session back to the pool.

        The session is opened before Peewee takes its lock, so a server that does not answer delays no other thread.
        """
        if self.is_closed() and not self.deferred:
            self._take()
        return bool(super().connect(reuse_if_open))

    def cursor(self, named_cursor: str | None = None) -> Any:
        """Return a cursor, on a new connection if the thread's old one was lost outside a transaction."""
        state = self._state
        if not state.closed and (state.transactions or not state.conn.closed):
            return state.conn.cursor()
        if not state.closed:
            self.close()
        # Peewee's stubs give this method no types.
        return super().cursor(named_cursor)  # type: ignore[no-untyped-call]

    def close_all(self) -> None:
        """Close this thread's session and the idle ones of the pool. Sessions that are in use close after it."""
        if not self.is_closed():
            self.close()
        self._pool.close()
        self._pool = SessionPool(self._open, self._size)

    def _connect(self) -> connection:
        session: Session = self._here.session
        return session.connection

    def _close(self, _conn: connection) -> None:
        self._give(self._here.session)

    def _take(self, *, look: bool = True, fresh: bool = False) -> Session:
        self._here.session = None
        with peewee_errors:
            session = self._here.session = self._pool.take(look=look, fresh=fresh)
        return session

    def _give(self, session: Session) -> None:
        session.pool.give(session)

    def _open(self, pool: SessionPool) -> Session:
        with self._gate.attempt():
            conn: connection = super()._connect()  # type: ignore[misc] # Not in Peewee's stubs.
        session = Session(conn, pool)
        self._watch.add(session)
        # PGTZ in the environment is stronger than the start-up options. The server reports the zone, so this is free.
        if conn.get_parameter_status("TimeZone") != "UTC":
            with conn.cursor() as cursor:
                cursor.execute("SET TimeZone TO 'UTC'")
        # psycopg2 would read numbers inside JSONB as floats; money stays exact. Ids are text everywhere in the service.
        register_type(_UUID_AS_TEXT, conn)
        register_default_jsonb(conn, loads=lambda text: exactjson.loads(text.encode()))
        for hook in self.connection_hooks:
            hook(conn)
        return session


def connect_options(settings: Settings) -> dict[str, Any]:
    """Return the driver's options of a connection, so that no database, role or environment changes an answer.

    They travel in the start-up packet: a SET would cost a round trip a connection.
    """
    parameters = {
        "statement_timeout": f"{settings.statement_timeout}s",
        "lock_timeout": f"{settings.lock_timeout}s",
        "timezone": "UTC",
        "datestyle": "ISO",
        # All statements go by an index whatever their values are, also while a table is small: plans are kept.
        "enable_seqscan": "off",
        # A page comes from the order of an index, and ends with it. Left the choice, PostgreSQL reads and sorts the
        # whole history for each page of a status that it thinks few orders have.
        "enable_sort": "off",
        # Before PostgreSQL 18, a sort that is switched off makes a plan seem so costly that it is compiled each time.
        "jit": "off",
        # A generic plan for all statements would save a little planning, but Citus refuses it.
        "plan_cache_mode": "auto",
    }
    return {
        "connect_timeout": settings.connect_timeout,
        "client_encoding": "UTF8",
        "application_name": "shop",
        "options": " ".join(f"-c {name}={value}" for name, value in parameters.items()),
    }


def sqlstate(error: Error) -> str | None:
    """Return PostgreSQL's code for `error` (its appendix A), or None if the server gave none."""
    code: str | None = getattr(getattr(error, "orig", None), "pgcode", None)
    return code


def is_outage(error: Error) -> bool:
    """Tell whether `error` means that the database cannot serve for now, so that trying again may help.

    True for lost and refused connections, timeouts, deadlocks, a standby that takes no writes, and failures inside the
    server (class XX, by which Citus reports a lost node). False for constraint violations and mistakes in a statement.
    """
    code = sqlstate(error)
    if code is None:
        # The driver has no better class for an answer that breaks off.
        return isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError
    return isinstance(error, OperationalError) or code == READ_ONLY_TRANSACTION or code.startswith(_SERVER_FAILURE)


# Peewee binds models to a database when they are defined, so there is one object for the process; `configure` points
# it at a server.
database = Database(None)
_PING = Statement(Select(columns=[SQL("1")]))
