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
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import psycopg
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
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader

from shop import exactjson
from shop.settings import Settings
from shop.storage.stalls import Entrance, StatementWatch, WatchedConnection

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
# As plain numbers, which libpq gives and which are compared sooner.
_HAS_ROWS, _HAS_NONE, _LOST = int(ExecStatus.TUPLES_OK), int(ExecStatus.COMMAND_OK), int(ConnStatus.BAD)


def _adapters() -> AdaptersMap:
    """Return how values are read: as the driver does, but ids are text, which they are everywhere else in the service.

    It would read numbers inside JSONB as floats; money stays exact.
    """
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("uuid", TextLoader)
    set_json_loads(lambda text: exactjson.loads(text if isinstance(text, bytes) else text.encode()), adapters)
    return adapters


_ADAPTERS = _adapters()


class _Connection(WatchedConnection):
    """The driver's connection, which knows what is prepared on it, and whether the server has hung up.

    Attributes:
        prepared: By the name of each statement that is prepared: what it is called there.
        generation: Part of the names, so that what is prepared anew does not meet what it replaces.
    """

    # The driver has its type in two kinds, and chooses when it is imported.
    _transformer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: dict[str, bytes] = {}
        self.generation = 1

    @classmethod
    def open(cls, url: str, **options: Any) -> Self:
        """Return a new connection in autocommit; `options` are libpq's.

        Raises:
            psycopg.OperationalError: There is none to be had.
        """
        try:
            # Nothing is prepared by the driver's own choice: it does not know of poolers that lose that.
            conn = cls.connect(url, autocommit=True, prepare_threshold=None, context=_ADAPTERS, **options)
        except psycopg.Error as error:
            # The error holds the driver's frames, and they hold it, with a connection that is half made and that the
            # server would complete when it answers again.
            traceback.clear_frames(error.__traceback__)
            raise
        # Only now: how values are read is not known before.
        conn._transformer = Transformer(conn)
        return conn

    @property
    def is_lost(self) -> bool:
        """Whether libpq has noticed that the connection has ended; the server is not asked."""
        return self.pgconn.status == _LOST

    @property
    def has_ended(self) -> bool:
        """Whether the server has hung up though nothing was asked."""
        try:
            # What it may have said first, and then the end. Neither waits, nor lets another thread run.
            self.pgconn.consume_input()
            self.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return False

    def run(self, statement: "Statement", parameters: list[object], *, prepares: bool) -> list[Row]:
        """Run a statement and return its rows.

        A cursor of the driver does the same, with several times the work (docs/performance.md): it finds out for each
        run what is known here of all of them.

        Raises:
            psycopg.Error: What PostgreSQL or libpq said.
        """
        values = self._transformer.dump_sequence(parameters, statement.formats)
        self.waiting_since = time.perf_counter()
        try:
            if prepares:
                name = self.prepared.get(statement.name) or self._prepare(statement)
                result = self.pgconn.exec_prepared(name, values)
            else:
                result = self.pgconn.exec_params(statement.numbered.encode(), values)
        finally:
            self.waiting_since = None
        if result.status == _HAS_ROWS:
            self._transformer.set_pgresult(result)
            rows: list[Row] = self._transformer.load_rows(0, result.ntuples, tuple)
            return rows
        if result.status != _HAS_NONE:
            raise _error(result)
        return []

    def _prepare(self, statement: "Statement") -> bytes:
        name = f"{statement.name}_{self.generation}".encode()
        result = self.pgconn.prepare(name, statement.numbered.encode())
        if result.status != _HAS_NONE:
            raise _error(result)
        # It stays, also when the transaction around it is rolled back.
        self.prepared[statement.name] = name
        return name

    def __del__(self, *_: object) -> None:
        """Let a connection end with its thread, in silence; the driver would warn of it."""


def _error(result: PGresult) -> psycopg.Error:
    """Return the driver's exception for a result that is none."""
    error = error_from_result(result)
    # Where no server has said it, libpq has: the connection is lost.
    return error if error.sqlstate else psycopg.OperationalError(str(error))


class Database(PostgresqlDatabase):
    """Peewee's PostgreSQL database, with connections that live as long as their threads.

    Attributes:
        prepares: Whether statements are prepared on the server.
        connection_hooks: Called with each new connection.
    """

    prepares = True
    connection_hooks: ClassVar[list[Callable[[psycopg.Connection], None]]] = []
    _state: Any  # Peewee's, of the calling thread

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Peewee lets one thread connect at a time: where a server does not answer, each would wait for all before it.
        # What else the lock is for, `init`, is over before there are threads.
        self._lock = nullcontext()
        self._entrance = Entrance()
        self._watch = StatementWatch(math.inf, self._entrance)

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

    def _run(self, statement: "Statement", parameters: list[object]) -> list[Row]:
        """Run a statement; whoever counts or logs statements sees it as one, with its own text."""
        started = time.perf_counter()
        said: Error | None = None
        try:
            return self._ready(statement).run(statement, parameters, prepares=self.prepares)
        except psycopg.Error:
            try:
                with peewee_errors:
                    raise
            except Error as error:
                said = error
                raise
        finally:
            if self.query_hooks:
                self._notify_hooks(statement.sql, parameters, started, said)  # type: ignore[attr-defined]

    def _ready(self, statement: "Statement") -> _Connection:
        """Return the thread's connection, a new one where the old one was lost.

        A write has a look first whether the server has ended the connection while nobody used it, as a restart does: it
        would fail, and could not be sent again, because it might have been done.
        """
        state = self._state
        conn: _Connection | None = state.conn
        if conn is None or ((conn.is_lost or (not statement.repeatable and conn.has_ended)) and not state.transactions):
            self.dispose()
            conn = self.connection()
        return conn

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

    def _connect(self) -> psycopg.Connection:
        with self._entrance.attempt():
            conn = _Connection.open(self.database, **self.connect_params)
        self._watch.add(conn)
        return conn

    def _is_lost(self) -> bool:
        conn: _Connection | None = self._state.conn
        return conn is not None and conn.is_lost

    def _initialize_connection(self, conn: psycopg.Connection) -> None:
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
        # Values travel as text: PostgreSQL reads each as the type that its place asks for.
        self.formats = [PyFormat.TEXT] * len(self._values)
        # Nearly all statements have nothing but slots. As plain strings they are found sooner.
        slots = [str(value) for value in self._values if type(value) is _SlotName]
        self._slots = slots if len(slots) == len(self._values) else None

    def bind(self, given: dict[str, object]) -> list[object]:
        """Return the parameters in the order of the SQL.

        Raises:
            KeyError: A slot has no value in `given`.
        """
        if self._slots is not None:
            return [given[name] for name in self._slots]
        return [given[value] if type(value) is _SlotName else value for value in self._values]


def sqlstate(error: Error) -> str | None:
    """Return PostgreSQL's code for `error` (its appendix A), or None where the server gave none."""
    code: str | None = getattr(getattr(error, "orig", None), "sqlstate", None)
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
