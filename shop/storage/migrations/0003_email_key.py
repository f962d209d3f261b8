"""`users.email_key`, by which an account is found: the address in NFC, with its case folded, computed by the service.

Before, `lower(email)` found it, and the locale of the database decided which addresses are one account.

A database in use stays in use: nothing here holds a lock for longer than it takes to look at a table once. The steps
run in several transactions, and can be run again after one that was interrupted.
"""

from collections.abc import Iterator

from peewee import PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

from shop.ids import email_key
from shop.storage.migrations import CannotMigrate

atomic = False
# Users that are read, or filled in, at a time.
BATCH = 5000


def up(_migrator: SchemaMigrator, db: PostgresqlDatabase) -> None:
    """Add the column with its unique index, fill it, and drop the index on `lower(email)`.

    Raises:
        CannotMigrate: Several users have one key. Nothing has been changed.
    """
    _refuse_collisions(db)
    db.execute_sql("ALTER TABLE users ADD COLUMN IF NOT EXISTS email_key text")
    _fill(db)
    db.execute_sql("DROP INDEX CONCURRENTLY IF EXISTS users_email_key_idx")
    db.execute_sql("CREATE UNIQUE INDEX CONCURRENTLY users_email_key_idx ON users (email_key)")
    with db.atomic():
        # Requests wait from here on, so that nobody is registered behind the last look at the table.
        db.execute_sql("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        _fill(db)
        db.execute_sql("ALTER TABLE users ALTER COLUMN email_key SET NOT NULL")
        db.execute_sql("DROP INDEX IF EXISTS users_email_key")


def _refuse_collisions(db: PostgresqlDatabase) -> None:
    seen: set[str] = set()
    shared: set[str] = set()
    for _, email in _users(db):
        key = email_key(email)
        (shared if key in seen else seen).add(key)
    if shared:
        addresses = sorted(email for _, email in _users(db) if email_key(email) in shared)
        raise CannotMigrate(
            f"these e-mail addresses differ only in case and have an account each: {', '.join(addresses)}; "
            "nothing was changed: give all but one of each another address or delete their users, then migrate again"
        )


def _fill(db: PostgresqlDatabase) -> None:
    batch: list[tuple[str, str]] = []
    for id_, email in _users(db, "AND email_key IS NULL"):
        batch.append((id_, email_key(email)))
        if len(batch) == BATCH:
            _write(db, batch)
            batch.clear()
    _write(db, batch)


def _write(db: PostgresqlDatabase, batch: list[tuple[str, str]]) -> None:
    if batch:
        ids, keys = map(list, zip(*batch, strict=True))
        db.execute_sql(
            "UPDATE users SET email_key = new.key FROM unnest(%s::uuid[], %s::text[]) AS new (id, key) "
            "WHERE users.id = new.id",
            (ids, keys),
        )


def _users(db: PostgresqlDatabase, condition: str = "") -> Iterator[tuple[str, str]]:
    """Yield id and address of each user, read in batches so that no snapshot stays open."""
    last = "00000000-0000-0000-0000-000000000000"
    while rows := db.execute_sql(
        f"SELECT id::text, email FROM users WHERE id > %s {condition} ORDER BY id LIMIT {BATCH}",  # noqa: S608
        (last,),
    ).fetchall():
        yield from rows
        last = rows[-1][0]
