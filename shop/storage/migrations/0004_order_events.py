"""The outbox: each order's row has its events, and says since when some of them wait for `shop deliver`.

`events_taken` counts the events that the deliverer has taken, from the first on. `untaken_since` is the time of the
first one that it has not taken, NULL if it has taken all. Orders that were placed before have no events.

A database in use stays in use: columns with constant defaults are added without a look at the rows, and the index is
made concurrently. The steps can be run again after an interruption.
"""

from peewee import PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

atomic = False
STATEMENTS = (
    """
    ALTER TABLE orders
        ADD COLUMN IF NOT EXISTS events        jsonb    NOT NULL DEFAULT '[]',
        ADD COLUMN IF NOT EXISTS events_taken  smallint NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS untaken_since timestamptz
    """,
    "DROP INDEX CONCURRENTLY IF EXISTS orders_untaken_idx",
    "CREATE INDEX CONCURRENTLY orders_untaken_idx ON orders (untaken_since) WHERE untaken_since IS NOT NULL",
)


def up(_migrator: SchemaMigrator, db: PostgresqlDatabase) -> None:
    """Add the columns, and the index that finds the orders with events to take."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
