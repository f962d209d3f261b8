"""The tables of the project, found in its models: which have rows, and how they are emptied."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache

import psycopg2
from peewee import sort_models

from tests import binding
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
    """Delete all rows of all tables, through a connection of its own."""
    with _cursor() as cursor:
        cursor.execute(deletion())


def tables_with_rows() -> list[str]:
    """Return the tables that have rows which everybody sees, asked through a connection of its own."""
    with _cursor() as cursor:
        cursor.execute(
            " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT FROM \"{table}\")" for table in table_names())
        )
        return [table for (table,) in cursor.fetchall()]


@contextmanager
def _cursor() -> Iterator[psycopg2.extensions.cursor]:
    with closing(psycopg2.connect(current_url())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
