"""The tables of the project, found in its models: which have rows, and how they are emptied."""

import os
from functools import cache, lru_cache
from typing import Any

from peewee import sort_models  # type: ignore[attr-defined]  # The stubs leave it out.

from tests import binding
from tests.harness.driver import real_connect
from tests.harness.postgres import current_url


@cache
def table_names() -> tuple[str, ...]:
    """Return the names of all tables, each before those that it refers to: the order in which rows can be deleted."""
    return tuple(model._meta.table_name for model in reversed(sort_models(binding.models())))


@cache
def deletion() -> str:
    """Return the SQL that deletes all rows of all tables, in one round trip.

    DELETE, because on tables this small it is more than a hundred times cheaper than TRUNCATE (measured: 0.06 ms
    against 11 ms) and about a thousand times cheaper than a fresh clone of the template (some 50 to 150 ms).
    """
    return "; ".join(f'DELETE FROM "{table}"' for table in table_names())


def delete_rows() -> None:
    """Delete all rows of all tables, through the kit's own connection."""
    ask(deletion())


def tables_with_rows() -> list[str]:
    """Return the tables that have rows which everybody sees."""
    tables = (f"SELECT '{table}' WHERE EXISTS (SELECT FROM \"{table}\")" for table in table_names())
    return [table for (table,) in ask(" UNION ALL ".join(tables))]


def ask(sql: str) -> list[tuple[Any, ...]]:
    """Run SQL in the project's database on a connection that no isolation knows, and return its rows."""
    connection = _connection(current_url(), os.getpid())
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


@lru_cache(1)
def _connection(url: str, _process: int) -> Any:
    """Return a connection that is kept: most runs need one database. A process has its own."""
    connection = real_connect(url, application_name=f"{binding.NAME} tests", options="-c lock_timeout=10s")
    connection.autocommit = True
    return connection


def hang_up() -> None:
    """Close that connection: a database with connections cannot be cloned."""
    _connection.cache_clear()
