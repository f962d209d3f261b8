"""Failed log-ins, counted for each account name, so that guessing is slowed down across workers and restarts.

A row is keyed by a hash of the address: addresses that nobody has are counted too, whatever their length, and the
table tells nobody's address.
"""

from peewee import PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    """
    CREATE TABLE login_failures (
        account  bytea       PRIMARY KEY,
        failures integer     NOT NULL CHECK (failures > 0),
        since    timestamptz NOT NULL
    )
    """,
    "CREATE INDEX login_failures_since_idx ON login_failures (since)",
)


def up(_migrator: SchemaMigrator, db: PostgresqlDatabase) -> None:
    """Create the table and the index that finds what has expired."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
