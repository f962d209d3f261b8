"""The database: one connection a thread, and statements that are compiled once here and prepared once there.

Peewee keeps a connection for each thread. Here it is opened at first use and stays open, because a connection for
each request, or a pool that probes at each check-out, costs more than most of our statements do. A connection
found broken is replaced at the next use. On each connection PostgreSQL parses and plans a statement once (PREPARE);
from then on its name and its values are sent.
"""

import hashlib
import itertools
import math
import re
import select
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

from peewee import (
    SQL,
    ColumnBase,
    Context,
    InterfaceError,
    OperationalError,
    PeeweeException,
    PostgresqlDatabase,
    Query,
    Select,
)
from peewee import __exception_wrapper__ as peewee_errors  # type: ignore[attr-defined] # Not in its stubs.
from psycopg2.extensions import UNICODE, connection, new_type, register_type
from psycopg2.extras import register_default_jsonb

from shop import exactjson
from shop.settings import Settings
from shop.stalls import Entrance, StatementWatch, WatchedConnection

Row = tuple[Any, ...]
# What `shop.app` maps to a response: whatever Peewee and the driver below it raise.
Error = PeeweeException
FOREIGN_KEY_VIOLATION = "23503"
READ_ONLY_TRANSACTION = "25006"
UNDEFINED_TABLE = "42P01"
# What is said of a prepared statement that is gone (DISCARD ALL), or whose table has changed since.
_OUTDATED = ("26000", "0A000")
# What PostgreSQL rolls back for the sake of another transaction: serialization_failure, deadlock_detected.
_ROLLED_BACK = ("40001", "40P01")
# How often a statement is sent at most.
_ATTEMPTS = 3
_UUID_OID = 2950
_UUID_AS_TEXT = new_type((_UUID_OID,), "UUID", UNICODE)


class _Connection(WatchedConnection):
    """The driver's connection, which knows what is prepared on it, and whether the server has hung up.

    Attributes:
        prepared: For each statement the EXECUTE that runs it.
        generation: Part of the names, so that what is prepared anew does not meet what it replaces.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: dict[Statement, str] = {}
        self.generation = 1
        self._line = select.poll()
        self._line.register(self.fileno(), select.POLLIN)

    @property
    def has_ended(self) -> bool:
        """Whether the server has said something though nothing was asked: that it hangs up, or nearly always that."""
        return bool(self._line.poll(0))


class Database(PostgresqlDatabase):
    """Peewee's PostgreSQL database, with connections that live as long as their threads.

    Attributes:
        prepares: Whether statements are prepared on the server.
        connection_hooks: Called with each new connection.
    """

    prepares = True
    connection_hooks: ClassVar[list[Callable[[connection], None]]] = []
    _state: Any  # Peewee's, of the calling thread

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Peewee lets one thread connect at a time: where a server does not answer, each would wait for all before it.
        # What else the lock is for, `init`, is over before there are threads.
        self._lock = nullcontext()
        self._entrance = Entrance()
        self._watch = StatementWatch(math.inf, self._entrance)

    def init(self, database: str | None, *args: Any, **options: Any) -> None:
        """Point the object at a database, as Peewee does; every connection to it is one of ours."""
        super().init(database, *args, **{"connection_factory": _Connection} | options)

    def configure(self, settings: Settings) -> None:
        """Say where the database is; nothing is connected yet.

        Raises:
            ValueError: `settings` has no database URL.
        """
        if settings.database_url is None:
            raise ValueError("settings.database_url is required")
        # Limits and the time zone travel in the start-up packet: a SET would cost a round trip a connection.
        limits = {
            "statement_timeout": f"{settings.statement_timeout}s",
            "lock_timeout": f"{settings.lock_timeout}s",
            "timezone": "UTC",
            # A prepared statement is planned once, without a look at its values: all of ours go by an index whatever
            # they are. Also while a table is still small and reading all of it would be cheaper: the plan is kept.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            # A page comes from the order of an index, and ends with it. Left the choice, PostgreSQL reads and sorts the
            # whole history for each page of a status that it thinks few orders have.
            "enable_sort": "off",
        }
        self.prepares = settings.prepared_statements
        self._entrance = Entrance()
        self._watch = StatementWatch(settings.statement_timeout, self._entrance)
        self.init(
            settings.database_url.get_secret_value(),
            connect_timeout=settings.connect_timeout,
            client_encoding="UTF8",
            application_name="shop",
            options=" ".join(f"-c {name}={value}" for name, value in limits.items()),
        )

    def rows(self, statement: "Statement", **values: object) -> list[Row]:
        """Run `statement` with a value for each of its slots and return its rows.

        Outside a transaction it is sent again, twice at most, where that is safe: a SELECT, on a new connection, when
        the old one turns out to be lost (a write may have been done), and any statement that was refused because what
        had been prepared is out of date, or rolled back because it was in the way of another (a deadlock).

        Raises:
            Error: Peewee's exception for what PostgreSQL or the driver said; see `is_outage`.
        """
        parameters = statement.bind(values)
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._run(statement, parameters)
            except Error as error:
                if not self._may_run_again(statement, error):
                    raise
        return self._run(statement, parameters)

    def row(self, statement: "Statement", **values: object) -> Row | None:
        """Run `statement` as `rows` does and return its first row, or None when it has none."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def ping(self) -> None:
        """Ask the server for an answer.

        Raises:
            Error: There is none.
        """
        self.rows(_PING)

    def cursor(self, named_cursor: str | None = None) -> Any:
        """Return a cursor, on a new connection where the thread's old one was lost."""
        if self._is_lost() and not self.in_transaction():
            self.dispose()
        # Peewee's stubs give this method no types.
        return super().cursor(named_cursor)  # type: ignore[no-untyped-call]

    def _run(self, statement: "Statement", parameters: Row) -> list[Row]:
        """Run a statement; whoever counts or logs statements sees it as one, with its own text."""
        started = time.perf_counter()
        try:
            if not statement.repeatable:
                self._leave_ended()
            with peewee_errors:
                cursor = self.cursor()
                conn: _Connection = cursor.connection
                conn.waiting_since = time.perf_counter()
                try:
                    cursor.execute(self._prepared(statement, cursor) if self.prepares else statement.sql, parameters)
                finally:
                    conn.waiting_since = None
                rows: list[Row] = cursor.fetchall() if cursor.description else []
        except Exception as error:
            self._tell_hooks(statement, parameters, started, error)
            raise
        self._tell_hooks(statement, parameters, started, None)
        return rows

    def _prepared(self, statement: "Statement", cursor: Any) -> str:
        """Return the EXECUTE of a statement, which is prepared first where this connection does not know it."""
        conn: _Connection = cursor.connection
        execute = conn.prepared.get(statement)
        if execute is None:
            name = f"{statement.name}_{conn.generation}"
            cursor.execute(f"PREPARE {name} AS {statement.numbered}")
            # It stays, also when the transaction around it is rolled back.
            execute = conn.prepared[statement] = f"EXECUTE {name}{statement.arguments}"
        return execute

    def _may_run_again(self, statement: "Statement", error: PeeweeException) -> bool:
        """Tell whether a statement that failed was not done, and may succeed now."""
        if sqlstate(error) in _OUTDATED and not self.is_closed():
            # Also inside a transaction, for the statements after it.
            conn: _Connection = self.connection()
            conn.prepared.clear()
            conn.generation += 1
            return not self.in_transaction() and self.prepares
        if self.in_transaction():
            return False
        if sqlstate(error) in _ROLLED_BACK:
            return True
        # Not after a wait for a silent server: a second one would exceed the time limit.
        return statement.repeatable and self._is_lost() and not self._state.conn.was_cut

    def _tell_hooks(self, statement: "Statement", parameters: Row, started: float, error: Exception | None) -> None:
        if self.query_hooks:
            self._notify_hooks(statement.sql, parameters, started, error)  # type: ignore[attr-defined]

    def _leave_ended(self) -> None:
        """Give up a connection that the server has ended while nobody used it, as a restart does.

        A write that is sent on it would fail, and could not be sent again: it might have been done.
        """
        state = self._state
        if not state.closed and not state.conn.closed and not self.in_transaction() and state.conn.has_ended:
            self.close()

    def _connect(self) -> connection:
        with self._entrance.attempt():
            conn: _Connection = super()._connect()  # type: ignore[misc] # Not in Peewee's stubs.
        self._watch.add(conn)
        return conn

    def _is_lost(self) -> bool:
        # psycopg2 notes a lost connection in `closed` without asking the server.
        state = self._state
        return not state.closed and bool(state.conn.closed)

    def _initialize_connection(self, conn: connection) -> None:
        # psycopg2 would read numbers inside JSONB as floats; money stays exact. Ids travel as text, which they are
        # everywhere else in the service.
        register_type(_UUID_AS_TEXT, conn)
        register_default_jsonb(conn, loads=lambda text: exactjson.loads(text.encode()))
        for hook in self.connection_hooks:
            hook(conn)


class Slot(ColumnBase):
    """A place in a Peewee expression for a value that comes with each run of the statement.

    Args:
        name: The keyword by which `Database.rows` takes the value.
        cast: SQL type to cast to, needed where PostgreSQL cannot infer it (the select list of an INSERT … SELECT).
    """

    def __init__(self, name: str, cast: str | None = None) -> None:
        self.name = name
        self.cast_to = cast

    def __sql__(self, ctx: Context) -> Any:
        if self.cast_to is None:
            return ctx.value(_SlotName(self.name), converter=False)
        return ctx.literal("CAST(").value(_SlotName(self.name), converter=False).literal(f" AS {self.cast_to})")


class _SlotName(str):
    """Marks, among the values of a compiled query, those that are filled at each run."""

    __slots__ = ()


class Statement:
    """A Peewee query compiled once to SQL with slots: building a query costs more than running it.

    Args:
        query: Any Peewee query; each `Slot` in it becomes a parameter.
    """

    def __init__(self, query: Query) -> None:
        self.sql, self._values = database.get_sql_context().sql(query).query()
        self.repeatable = isinstance(query, Select)
        # Behind a pooler that mixes up connections a name must at least never stand for another statement.
        self.name = f"shop_{hashlib.sha256(self.sql.encode()).hexdigest()[:16]}"
        numbers = itertools.count(1)
        self.numbered = re.sub("%[s%]", lambda mark: f"${next(numbers)}" if mark[0] == "%s" else "%", self.sql)
        self.arguments = f" ({', '.join(['%s'] * len(self._values))})" if self._values else ""

    def bind(self, given: dict[str, object]) -> Row:
        """Return the parameters in the order of the SQL.

        Raises:
            KeyError: A slot has no value in `given`.
        """
        return tuple(given[value] if type(value) is _SlotName else value for value in self._values)


def sqlstate(error: Error) -> str | None:
    """Return PostgreSQL's code for `error` (its appendix A), or None where the server gave none."""
    code: str | None = getattr(getattr(error, "orig", None), "pgcode", None)
    return code


def is_outage(error: Error) -> bool:
    """Tell whether `error` means that the database cannot serve for now, so that trying again may help.

    Lost and refused connections, time limits, deadlocks, and a standby that takes no writes are such; a constraint
    violation or a mistake in a statement is not.
    """
    return isinstance(error, OperationalError | InterfaceError) or sqlstate(error) == READ_ONLY_TRANSACTION


# Peewee binds models to a database when they are defined, so there is one object for the process; `configure` points
# it at a server. Threads share the object, never a connection.
database = Database(None)
_PING = Statement(Select(columns=[SQL("1")]))
