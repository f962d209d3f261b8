"""Migrations of the schema: numbered files, each with a function `up`, and the functions that apply them.

The files are `playhouse.migrations` scripts. Each runs in its own transaction and is recorded in the table
`schema_migration`. A released file is never changed: each change of the schema is a new file.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from peewee import PostgresqlDatabase
from playhouse.migrations import Runner

DIRECTORY = Path(__file__).parent
# The key of the advisory lock; it spells "shop".
LOCK_KEY = 0x73686F70
# Seconds between two attempts to take the lock.
POLL = 0.1


class CannotMigrate(Exception):
    """Rows of the database prevent a migration; the message says what to do about them."""


class Migration(NamedTuple):
    """A migration: the name of its file without the extension, and when it was applied (None: not yet)."""

    name: str
    applied: datetime | None


def migrate(url: str) -> list[str]:
    """Apply the pending migrations and return their names, oldest first.

    If there are any, an advisory lock is held: a second run waits for the first, and then has nothing to do. Otherwise
    nothing is locked.

    Args:
        url: ``postgresql://`` URL of a database, with a role that may change its schema. It should not lead to a
            pooler, whose timeouts would apply to migrations, too.

    Raises:
        CannotMigrate: Rows of the database prevent a migration.
        peewee.OperationalError: The database cannot be reached.
        peewee.DatabaseError: A migration failed. It is rolled back; the ones before it stay applied.
    """
    with _connected(url) as database:
        if all(migration.applied for migration in _runner(database).status()):
            return []
        # A lock of a transaction, on its own connection. Behind a pooler in transaction mode, a lock of a session would
        # stay on a pooled connection, and the next run would wait without end.
        with _connected(url) as lock_connection, lock_connection.atomic():
            lock_connection.execute_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            _wait_for_lock(lock_connection)
            applied: list[str] = _runner(database).up()
            return applied


def status(url: str) -> list[Migration]:
    """Return all migrations in order, applied or pending, including applied ones whose file is gone."""
    with _connected(url) as database:
        return [Migration(row.name, row.applied) for row in _runner(database).status()]


def _wait_for_lock(lock_connection: PostgresqlDatabase) -> None:
    """Take the advisory lock for the rest of the transaction; retry until it is free.

    A statement that waits for the lock would hold a snapshot. CREATE INDEX CONCURRENTLY in the other run waits for all
    snapshots to end, a deadlock that PostgreSQL does not detect. The key is in the SQL for the same reason: a parameter
    leaves a portal open, which holds a snapshot.
    """
    while not lock_connection.execute_sql(f"SELECT pg_try_advisory_xact_lock({LOCK_KEY})").fetchone()[0]:
        time.sleep(POLL)


def _runner(database: PostgresqlDatabase) -> Runner:
    return Runner(database, str(DIRECTORY))


@contextmanager
def _connected(url: str) -> Iterator[PostgresqlDatabase]:
    # Not the service's database object, because its statement timeout would apply to migrations.
    database = PostgresqlDatabase(url, application_name="shop migrate")
    database.connect()
    try:
        yield database
    finally:
        database.close()
