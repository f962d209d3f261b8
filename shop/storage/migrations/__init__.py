"""The schema's history: numbered files, each with an `up`, and the runner that applies them.

Files are `playhouse.migrations` scripts. Each runs in a transaction of its own, is recorded in the table
`schema_migration`, and is never changed once it has been released: a change of the schema is a new file.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from peewee import PostgresqlDatabase
from playhouse.migrations import Runner

DIRECTORY = Path(__file__).parent
# Any number that nothing else in the database uses as an advisory lock; this one spells "shop".
LOCK_KEY = 0x73686F70
# Seconds between two looks whether another run has ended.
POLL = 0.1


class CannotMigrate(Exception):
    """The rows of a database do not allow a migration; the text says in one sentence what to do about them."""


class Migration(NamedTuple):
    """One migration: its file's name without the ending, and when it was applied (None: not yet)."""

    name: str
    applied: datetime | None


def migrate(url: str) -> list[str]:
    """Apply what is pending and return the names, oldest first.

    Where something is pending, an advisory lock is held meanwhile, so that of two runs at once the second waits and
    then finds nothing to do. Where nothing is, nothing is locked and nothing waits.

    Args:
        url: ``postgresql://`` URL of a database, with a role that may change its schema. Best a direct connection:
            what a pooler sets on its connections, such as time limits, would hold for migrations too.

    Raises:
        CannotMigrate: The rows do not allow a migration.
        peewee.OperationalError: The database cannot be reached.
        peewee.DatabaseError: A migration failed; those before it stay applied, it itself is rolled back.
    """
    with _connected(url) as database:
        if all(migration.applied for migration in _runner(database).status()):
            return []
        # A transaction's lock, on a connection of its own. A session's lock would stay behind on whichever connection
        # a pooler in transaction mode had lent, and the next run would wait for it for ever.
        with _connected(url) as keeper, keeper.atomic():
            keeper.execute_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            _wait_for_lock(keeper)
            applied: list[str] = _runner(database).up()
            return applied


def status(url: str) -> list[Migration]:
    """Return all migrations in order, applied or not, among them applied ones whose file is gone."""
    with _connected(url) as database:
        return [Migration(row.name, row.applied) for row in _runner(database).status()]


def fingerprint() -> str:
    """Return a hash of all migration files: schemas with equal fingerprints are equal."""
    digest = hashlib.sha256()
    for path in sorted(DIRECTORY.glob("[0-9]*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _wait_for_lock(keeper: PostgresqlDatabase) -> None:
    """Take the advisory lock for the rest of the transaction, asking until it is free.

    A statement that waits for it would keep a snapshot meanwhile. An index that the holder of the lock makes
    CONCURRENTLY waits for the end of all snapshots, so that neither would go on, and PostgreSQL does not see that. For
    the same reason the number is in the text: a parameter leaves a portal open, and that keeps its snapshot.
    """
    while not keeper.execute_sql(f"SELECT pg_try_advisory_xact_lock({LOCK_KEY})").fetchone()[0]:
        time.sleep(POLL)


def _runner(database: PostgresqlDatabase) -> Runner:
    return Runner(database, str(DIRECTORY))


@contextmanager
def _connected(url: str) -> Iterator[PostgresqlDatabase]:
    # Not the service's database object: a migration may run longer than a request's statements are allowed to.
    database = PostgresqlDatabase(url, application_name="shop migrate")
    database.connect()
    try:
        yield database
    finally:
        database.close()
