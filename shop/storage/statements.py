"""SQL statements that are compiled once: a Peewee query with slots for the values of each run."""

import hashlib
import itertools
import re
from typing import Any

from peewee import ColumnBase, Context, PostgresqlDatabase, Query, Select

# Compiles queries; it never connects.
_COMPILER = PostgresqlDatabase(None)
# The text of each statement by its name, for logs and tests: Peewee's query hooks see PREPARE and EXECUTE.
_TEXTS: dict[str, str] = {}
_NAMED = re.compile(r"(?:EXECUTE|PREPARE) (shop_[0-9a-f]{16})_")


class Slot(ColumnBase):
    """A place in a Peewee expression for a value that comes with each run of the statement.

    Args:
        name: The keyword by which `Database.rows` takes the value.
        cast: SQL type to cast to, needed where PostgreSQL cannot infer it.
    """

    def __init__(self, name: str, cast: str | None = None) -> None:
        self.name = name
        self.cast_to = cast

    def __sql__(self, ctx: Context) -> Any:
        if self.cast_to is None:
            return ctx.value(_SlotName(self.name), converter=False)
        return ctx.literal("CAST(").value(_SlotName(self.name), converter=False).literal(f" AS {self.cast_to})")


class _SlotName(str):
    """Marks, among the values of a compiled query, those that each run fills."""

    __slots__ = ()


class Statement:
    """A Peewee query compiled once to SQL with slots: building a query costs more than running it.

    Args:
        query: Any Peewee query; each `Slot` in it becomes a parameter.

    Raises:
        ValueError: The text has a literal ``%``, which the driver would take for a parameter.

    Attributes:
        sql: The text with ``%s`` in place of each value.
        numbered: The text with ``$1``, ``$2``, …, as PREPARE takes it.
        name: What the prepared statement is called. Equal texts have equal names.
        arguments: What follows the name in EXECUTE, with ``%s`` in place of each value.
        repeatable: Whether it only reads, so that sending it twice does no harm.
    """

    def __init__(self, query: Query) -> None:
        self.sql, self._values = _COMPILER.get_sql_context().sql(query).query()
        self.repeatable = isinstance(query, Select)
        # A hash of the text: a pooler that mixes up connections must never run another statement by this name.
        self.name = f"shop_{hashlib.sha256(self.sql.encode()).hexdigest()[:16]}"
        _TEXTS[self.name] = self.sql
        numbers = itertools.count(1)
        self.numbered = re.sub("%s", lambda _: f"${next(numbers)}", self.sql)
        if "%" in self.numbered:
            raise ValueError("a statement must not contain a literal %; pass it as a value")
        self.arguments = f" ({', '.join(['%s'] * len(self._values))})" if self._values else ""
        # Nearly all statements have nothing but slots. Plain strings are found faster in a dict.
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
    """Return the text that a PREPARE or EXECUTE of one of our statements stands for, and any other SQL as it is."""
    named = _NAMED.match(sql)
    return _TEXTS.get(named[1], sql) if named else sql


def is_prepare(sql: str) -> bool:
    """Tell whether `sql` only prepares a statement. A connection that knows the statement already needs none."""
    return sql.startswith("PREPARE ")
