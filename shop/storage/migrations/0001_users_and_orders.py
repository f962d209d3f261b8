"""Users and their orders.

The order's key begins with its owner: customers' statements always name `user_id`, and the tables can be
distributed by it. For the same reason every unique key of `orders` contains it, and `id` alone has a plain index.
"""

from peewee import PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    """
    CREATE TABLE users (
        id            uuid        PRIMARY KEY,
        name          text        NOT NULL,
        email         text        NOT NULL,
        password_hash text        NOT NULL,
        role          text        NOT NULL CHECK (role IN ('customer', 'staff')),
        created_at    timestamptz NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX users_email_key ON users (lower(email))",
    """
    CREATE TABLE orders (
        user_id          uuid           NOT NULL REFERENCES users (id),
        id               uuid           NOT NULL,
        items            jsonb          NOT NULL,
        total            numeric(10, 2) NOT NULL CHECK (total >= 0),
        status           text           NOT NULL
                         CHECK (status IN ('pending', 'confirmed', 'shipped', 'delivered', 'cancelled')),
        shipping_address jsonb          NOT NULL,
        idempotency_key  text,
        request_digest   bytea,
        created_at       timestamptz    NOT NULL,
        PRIMARY KEY (user_id, id)
    )
    """,
    "CREATE UNIQUE INDEX orders_idempotency_key ON orders (user_id, idempotency_key)",
    "CREATE INDEX orders_history_idx ON orders (user_id, created_at DESC, id DESC)",
    "CREATE INDEX orders_id_idx ON orders (id)",
)


def up(_migrator: SchemaMigrator, db: PostgresqlDatabase) -> None:
    """Create both tables and their indexes."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
