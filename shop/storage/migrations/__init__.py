"""The schema's history: numbered files, each with an `up`, and the runner that applies them.

Files are `playhouse.migrations` scripts. Each runs in a transaction of its own, is recorded in the table
`schema_migration`, and is never changed once it has been released: a change of the schema is a new file.
"""

import hashlib
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
            # The number is in the text. As a parameter it would leave a portal of the protocol open on the server, and
            # with it a snapshot, for whose end an index that a migration makes CONCURRENTLY would wait for ever.
            keeper.execute_sql(f"SELECT pg_advisory_xact_lock({LOCK_KEY})")
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
