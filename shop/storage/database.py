"""The database: runs compiled statements through Peewee, prepared once per connection, on a pool of connections.

Each statement takes a session from the pool of its process and gives it back at its end. So a request that waits for a
password hash holds no connection, and a process needs fewer connections than threads. A thread that connects itself
(`connect`, `atomic`, Peewee's own queries) keeps its session until `close`.
"""

import math
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
from shop.storage.statements import Statement
from shop.storage.timeouts import ConnectBreaker, StatementTimeout

Row = tuple[Any, ...]
# The base class of all exceptions of Peewee, which include those of the driver.
Error = PeeweeException
FOREIGN_KEY_VIOLATION = "23503"
READ_ONLY_TRANSACTION = "25006"
UNDEFINED_TABLE = "42P01"
_SERVER_FAILURE = "XX"
# SQLSTATEs of a prepared statement that is gone (DISCARD ALL), or whose table has changed.
_OUTDATED = ("26000", "0A000")
# SQLSTATEs of a rollback because of another transaction: serialization_failure and deadlock_detected.
_ROLLED_BACK = ("40001", "40P01")
# A statement is sent once and retried twice at most.
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
    _state: Any  # Peewee's state of the calling thread: its connection and its transactions.

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._use(size=1, pool_timeout=1, statement_timeout=math.inf)

    def configure(self, settings: Settings) -> None:
        """Use the database of `settings`; the first statement connects to it.

        Raises:
            ValueError: `settings` has no database URL.
        """
        if settings.database_url is None:
            raise ValueError("settings.database_url is required")
        self.close_all()
        self.prepares = settings.prepared_statements
        self._use(
            size=settings.database_connections,
            pool_timeout=settings.connect_timeout,
            statement_timeout=settings.statement_timeout,
        )
        self.init(settings.database_url.get_secret_value(), **connect_options(settings))

    def _use(self, *, size: int, pool_timeout: float, statement_timeout: float) -> None:
        self._size = size
        self._pool = SessionPool(self._open, size)
        # A statement takes one while it runs. This queue is written in C; a semaphore would be ten times as slow.
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(size):
            self._permits.put(None)
        self._pool_timeout = pool_timeout
        self._breaker = ConnectBreaker()
        self._timeout = StatementTimeout(statement_timeout, self._breaker)

    def rows(self, statement: Statement, **values: object) -> list[Row]:
        """Run `statement` with a value for each of its slots and return its rows.

        Outside a transaction it is retried, at most twice, where a retry is safe: a SELECT whose connection was lost,
        on a new connection; any statement that was rolled back because of another transaction (a deadlock), or whose
        prepared statement was out of date.

        Raises:
            Error: The statement failed, or no connection was free before the timeout; see `is_outage`.
        """
        parameters = statement.bind(values)
        fresh = False
        attempt = 1
        while True:
            session = self._own_session(statement)
            is_own = session is not None
            if session is None:
                session = self._borrow(statement, fresh=fresh)
            try:
                return self._send(session, statement, parameters)
            except Error as error:
                if attempt == _ATTEMPTS or not self._may_retry(statement, session, error):
                    raise
            finally:
                if not is_own:
                    self._give_back(session)
            attempt += 1
            fresh = statement.repeatable

    def row(self, statement: Statement, **values: object) -> Row | None:
        """Run `statement` as `rows` does and return its first row, or None if it has none."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def ping(self) -> None:
        """Check that the server answers.

        Raises:
            Error: It does not.
        """
        self.rows(_PING)

    def _own_session(self, statement: Statement) -> Session | None:
        """Return the session of a thread that has connected itself, unless it was lost outside a transaction."""
        state = self._state
        if state.closed:
            return None
        session: Session = state.conn
        if state.transactions or not (session.closed if statement.repeatable else session.has_ended):
            return session
        self.close()
        return None

    def _borrow(self, statement: Statement, *, fresh: bool) -> Session:
        """Take a session from the pool for this thread.

        Raises:
            Error: The server refused the connection, or no connection was free before the timeout.
        """
        try:
            self._permits.get(timeout=self._pool_timeout)
        except Empty:
            raise OperationalError("no database connection became free in time") from None
        try:
            with peewee_errors:
                session = self._pool.take(check_alive=not statement.repeatable, fresh=fresh)
        except BaseException:
            self._permits.put(None)
            raise
        # As `connect` does, but without its locks, whose cost every statement would pay.
        self._state.set_connection(session)
        return session

    def _give_back(self, session: Session) -> None:
        self._state.reset()
        session.pool.give(session)
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

    def _may_retry(self, statement: Statement, session: Session, error: PeeweeException) -> bool:
        """Tell whether a retry of a failed statement is safe and may succeed."""
        if self.in_transaction():
            return False
        code = sqlstate(error)
        if code in _OUTDATED:
            return self.prepares
        if code in _ROLLED_BACK:
            return True
        # No retry after a timeout: the request would wait for a silent server a second time.
        return statement.repeatable and bool(session.closed) and not session.was_cut

    # -- overridden methods of Peewee ---------------------------------------------------------------------------------

    def cursor(self, named_cursor: str | None = None) -> Any:
        """Return a cursor, on a new connection if the thread's old one was lost outside a transaction."""
        state = self._state
        conn = state.conn
        if conn is not None and (not conn.closed or state.transactions):
            return conn.cursor()
        if conn is not None:
            self.close()
        # Peewee's stubs give this method no types.
        return super().cursor(named_cursor)  # type: ignore[no-untyped-call]

    def close_all(self) -> None:
        """Close this thread's session and the idle ones of the pool. Sessions that are in use close after it."""
        if not self.is_closed():
            self.close()
        self._pool.close()
        self._pool = SessionPool(self._open, self._size)

    def _connect(self) -> Session:
        return self._pool.take(check_alive=True)

    def _close(self, conn: Session) -> None:
        conn.pool.give(conn)

    def _open(self) -> Session:
        with self._breaker.attempt():
            session: Session = super()._connect()  # type: ignore[misc] # Not in Peewee's stubs.
        self._timeout.add(session)
        # PGTZ in the environment overrides the start-up options. The server reports the time zone, so this is free.
        if session.get_parameter_status("TimeZone") != "UTC":
            with session.cursor() as cursor:
                cursor.execute("SET TimeZone TO 'UTC'")
        # psycopg2 would read numbers inside JSONB as floats; money stays exact. Ids are text everywhere in the service.
        register_type(_UUID_AS_TEXT, session)
        register_default_jsonb(session, loads=lambda text: exactjson.loads(text.encode()))
        for hook in self.connection_hooks:
            hook(session)
        return session


def connect_options(settings: Settings) -> dict[str, Any]:
    """Return the driver's options for a connection. They override defaults of the database, role and environment.

    They are sent in the start-up packet, which saves a round trip per connection.
    """
    parameters = {
        "statement_timeout": f"{settings.statement_timeout}s",
        "lock_timeout": f"{settings.lock_timeout}s",
        "timezone": "UTC",
        "datestyle": "ISO",
        # Plans are cached, so each must use an index, even if it was made while the table was small.
        "enable_seqscan": "off",
        # A page is read in the order of an index. Otherwise PostgreSQL reads and sorts a user's whole history if it
        # expects few orders with the requested status.
        "enable_sort": "off",
        # Before PostgreSQL 18, a disabled sort makes a plan seem so expensive that each run compiles it.
        "jit": "off",
        # Forcing generic plans would save a little planning, but Citus rejects that.
        "plan_cache_mode": "auto",
    }
    return {
        "connection_factory": Session,
        "connect_timeout": settings.connect_timeout,
        "client_encoding": "UTF8",
        "application_name": "shop",
        "options": " ".join(f"-c {name}={value}" for name, value in parameters.items()),
    }


def sqlstate(error: Error) -> str | None:
    """Return the SQLSTATE of `error` (PostgreSQL, appendix A), or None if it is not from the server."""
    code: str | None = getattr(getattr(error, "orig", None), "pgcode", None)
    return code


def is_outage(error: Error) -> bool:
    """Tell whether `error` is temporary: the database is unavailable, and a later retry may succeed.

    True for lost and refused connections, timeouts, deadlocks, a read-only standby, and internal errors of the server
    (class XX, with which Citus reports a lost node). False for constraint violations and invalid statements.
    """
    code = sqlstate(error)
    if code is None:
        # The driver raises the plain base class if a response breaks off.
        return isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError
    return isinstance(error, OperationalError) or code == READ_ONLY_TRANSACTION or code.startswith(_SERVER_FAILURE)


# One object for the process, because models are bound to it when they are defined; `configure` says which server.
database = Database(None)
_PING = Statement(Select(columns=[SQL("1")]))
