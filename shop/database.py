"""The database: one connection a thread, and statements that are compiled once.

Peewee keeps a connection for each thread. Here it is opened at first use and stays open, because a connection for
each request, or a pool that probes at each check-out, costs more than most of our statements do. A connection
found broken is replaced at the next use.
"""

from typing import Any

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
from psycopg2.extensions import connection, new_type, register_type
from psycopg2.extras import register_default_jsonb

from shop import exactjson
from shop.settings import Settings

Row = tuple[Any, ...]
# What `shop.app` maps to a response: whatever Peewee and the driver below it raise.
Error = PeeweeException
FOREIGN_KEY_VIOLATION = "23503"
READ_ONLY_TRANSACTION = "25006"
UNDEFINED_TABLE = "42P01"
_UUID_OID = 2950
_UUID_AS_TEXT = new_type((_UUID_OID,), "UUID", lambda text, _cursor: text)


class Database(PostgresqlDatabase):
    """Peewee's PostgreSQL database, with connections that live as long as their threads."""

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
            # A page comes from the order of an index, and ends with it. Left the choice, PostgreSQL reads and sorts the
            # whole history for each page of a status that it thinks few orders have.
            "enable_sort": "off",
        }
        self.init(
            settings.database_url.get_secret_value(),
            connect_timeout=settings.connect_timeout,
            client_encoding="UTF8",
            application_name="shop",
            options=" ".join(f"-c {name}={value}" for name, value in limits.items()),
        )

    def rows(self, statement: "Statement", **values: object) -> list[Row]:
        """Run `statement` with a value for each of its slots and return its rows.

        A SELECT outside a transaction is sent once more on a new connection when the old one turns out to be
        lost. A write is not: it may have been done.

        Raises:
            Error: Peewee's exception for what PostgreSQL or the driver said; see `is_outage`.
        """
        parameters = statement.bind(values)
        try:
            return self._fetch(statement.sql, parameters)
        except (OperationalError, InterfaceError):
            if self.in_transaction() or not (statement.repeatable and self._is_lost()):
                raise
            return self._fetch(statement.sql, parameters)

    def row(self, statement: "Statement", **values: object) -> Row | None:
        """Run `statement` as `rows` does and return its first row, or None when it has none."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def ping(self) -> None:
        """Ask the server for an answer.

        Raises:
            Error: There is none.
        """
        self.rows(Statement(Select(columns=[SQL("1")])))

    def cursor(self, named_cursor: str | None = None) -> Any:
        """Return a cursor, on a new connection where the thread's old one was lost."""
        if self._is_lost() and not self.in_transaction():
            self.dispose()
        # Peewee's stubs give this method no types.
        return super().cursor(named_cursor)  # type: ignore[no-untyped-call]

    def _fetch(self, sql: str, parameters: Row) -> list[Row]:
        cursor = self.execute_sql(sql, parameters)
        rows: list[Row] = cursor.fetchall() if cursor.description else []
        return rows

    def _is_lost(self) -> bool:
        # psycopg2 notes a lost connection in `closed` without asking the server.
        return not self.is_closed() and bool(self.connection().closed)

    def _initialize_connection(self, conn: connection) -> None:
        # psycopg2 would read numbers inside JSONB as floats; money stays exact. Ids travel as text, which they are
        # everywhere else in the service.
        register_type(_UUID_AS_TEXT, conn)
        register_default_jsonb(conn, loads=lambda text: exactjson.loads(text.encode()))


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
