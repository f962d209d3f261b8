"""Webhook endpoints, and what is still to be delivered to each; see `shop.domain.deliveries`.

The key of a delivery begins with the owner of its order, so that Citus keeps it on the node of the order. A delivery
that succeeded has no row.
"""

from peewee import PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    """
    CREATE TABLE webhook_endpoints (
        id              uuid        PRIMARY KEY,
        url             text        NOT NULL UNIQUE,
        types           jsonb       NOT NULL,
        secret          text        NOT NULL,
        previous_secret text,
        rotated_at      timestamptz,
        created_at      timestamptz NOT NULL,
        disabled_at     timestamptz
    )
    """,
    """
    CREATE TABLE webhook_deliveries (
        user_id     uuid        NOT NULL,
        order_id    uuid        NOT NULL,
        endpoint_id uuid        NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
        position    smallint    NOT NULL,
        event_id    uuid        NOT NULL,
        event       jsonb       NOT NULL,
        occurred_at timestamptz NOT NULL,
        status      text        NOT NULL CHECK (status IN ('pending', 'failed')),
        attempts    smallint    NOT NULL,
        due_at      timestamptz NOT NULL,
        PRIMARY KEY (user_id, order_id, endpoint_id, position)
    )
    """,
    "CREATE INDEX webhook_deliveries_due_idx ON webhook_deliveries (endpoint_id, status, due_at)",
    "CREATE INDEX webhook_deliveries_oldest_idx ON webhook_deliveries (occurred_at) WHERE status = 'pending'",
)


def up(_migrator: SchemaMigrator, db: PostgresqlDatabase) -> None:
    """Create both tables and their indexes."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
