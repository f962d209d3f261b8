"""`users.email_key`, by which an account is found: the address in NFC, with its case folded, computed by the service.

Before, `lower(email)` found it, and the locale of the database decided which addresses are one account.

A database in use stays in use: nothing here holds a lock for longer than it takes to look at a table once. The steps
run in several transactions, and can be run again after one that was interrupted.
"""

from collections import Counter
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
    keys = Counter(email_key(email) for users in _batches(db) for _, email in users)
    if shared := {key for key, count in keys.items() if count > 1}:
        addresses = sorted(email for users in _batches(db) for _, email in users if email_key(email) in shared)
        raise CannotMigrate(
            f"these e-mail addresses differ only in case and have an account each: {', '.join(addresses)}; "
            "nothing was changed: give all but one of each another address or delete their users, then migrate again"
        )


def _fill(db: PostgresqlDatabase) -> None:
    for users in _batches(db, "AND email_key IS NULL"):
        db.execute_sql(
            "UPDATE users SET email_key = new.key FROM unnest(%s::uuid[], %s::text[]) AS new (id, key) "
            "WHERE users.id = new.id",
            ([id_ for id_, _ in users], [email_key(email) for _, email in users]),
        )


def _batches(db: PostgresqlDatabase, condition: str = "") -> Iterator[list[tuple[str, str]]]:
    """Yield id and address of all users, in batches so that no snapshot stays open."""
    last = "00000000-0000-0000-0000-000000000000"
    while users := db.execute_sql(
        f"SELECT id::text, email FROM users WHERE id > %s {condition} ORDER BY id LIMIT {BATCH}",  # noqa: S608
        (last,),
    ).fetchall():
        yield users
        last = users[-1][0]
