"""Compiled statements: Peewee queries that are turned into SQL once, with slots for the values of each run."""

import hashlib
import itertools
import re
from typing import Any

from peewee import ColumnBase, Context, PostgresqlDatabase, Query, Select

# Compiles queries; it never connects.
_COMPILER = PostgresqlDatabase(None)
# The SQL of each statement by its name. Logs and tests need it: Peewee's query hooks see only PREPARE and EXECUTE.
_TEXTS: dict[str, str] = {}
_NAMED = re.compile(r"(?:EXECUTE|PREPARE) (shop_[0-9a-f]{16})_")


class Slot(ColumnBase):
    """A parameter in a Peewee expression; each run of the statement gives it a value.

    Args:
        name: The keyword argument of `Database.rows` that has the value.
        cast: The SQL type to cast to, needed where PostgreSQL cannot infer it.
    """

    def __init__(self, name: str, cast: str | None = None) -> None:
        self.name = name
        self.cast_to = cast

    def __sql__(self, ctx: Context) -> Any:
        if self.cast_to is None:
            return ctx.value(_SlotName(self.name), converter=False)
        return ctx.literal("CAST(").value(_SlotName(self.name), converter=False).literal(f" AS {self.cast_to})")


class _SlotName(str):
    """Marks the values of a compiled query that are slots."""

    __slots__ = ()


class Statement:
    """A Peewee query, compiled to SQL once, because building a query costs more than running it.

    Args:
        query: Any Peewee query; each `Slot` in it becomes a parameter.

    Raises:
        ValueError: The SQL has a literal ``%``, which the driver would take for a parameter.

    Attributes:
        sql: The SQL with ``%s`` in place of each value.
        numbered: The SQL with ``$1``, ``$2``, …, as PREPARE needs it.
        name: The name of the prepared statement. Equal SQL has equal names.
        arguments: The arguments of EXECUTE, with ``%s`` in place of each value.
        repeatable: Whether it only reads, so that a retry is always safe.
    """

    def __init__(self, query: Query) -> None:
        self.sql, self._values = _COMPILER.get_sql_context().sql(query).query()
        self.repeatable = isinstance(query, Select)
        # A hash of the SQL: even if a pooler mixes up connections, this name never runs another statement.
        self.name = f"shop_{hashlib.sha256(self.sql.encode()).hexdigest()[:16]}"
        _TEXTS[self.name] = self.sql
        numbers = itertools.count(1)
        self.numbered = re.sub("%s", lambda _: f"${next(numbers)}", self.sql)
        if "%" in self.numbered:
            raise ValueError("a statement must not contain a literal %; pass it as a value")
        self.arguments = f" ({', '.join(['%s'] * len(self._values))})" if self._values else ""
        # Most statements have slots only. Plain strings are found faster in a dict.
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


def statement_text(sql: str) -> str:
    """Return the SQL behind a PREPARE or EXECUTE of our statements; return any other SQL unchanged."""
    named = _NAMED.match(sql)
    return _TEXTS.get(named[1], sql) if named else sql


def is_prepare(sql: str) -> bool:
    """Tell whether `sql` only prepares a statement, which happens once per connection."""
    return sql.startswith("PREPARE ")
