"""The rows that the service is measured with: made in SQL, each id a function of a number, so that load can name it."""

import psycopg2

from shop.security.passwords import Passwords
from shop.settings import Settings

# All users have it, and one hash of it, made with the service's default parameters.
PASSWORD = "analytical engine"
ORDERS_EACH = 10
ITEMS = """[
    {"productId": "tea-1", "name": "Tea", "price": 29.99, "quantity": 2},
    {"productId": "pot-1", "name": "Teapot", "price": 49.99, "quantity": 1}
]"""
TOTAL = "109.97"
ADDRESS = '{"street": "1 Main St", "city": "London"}'

_USER_PREFIX = "01900000-0000-7000-8000-"
_ORDER_PREFIX = "01900000-0000-7000-9000-"


def user_id(number: int) -> str:
    """Return the id of a user, who are numbered from 0."""
    return f"{_USER_PREFIX}{number:012x}"


def order_id(number: int) -> str:
    """Return the id of an order. The orders of user n are n, n + users, n + 2 * users …: they came one by one."""
    return f"{_ORDER_PREFIX}{number:012x}"


def email(number: int) -> str:
    """Return the e-mail address of a user."""
    return f"user{number}@example.com"


def user_id_sql(number: str) -> str:
    """Return the SQL of what `user_id` returns, for an SQL expression."""
    return f"('{_USER_PREFIX}' || lpad(to_hex(({number})::bigint), 12, '0'))::uuid"


def order_id_sql(number: str) -> str:
    """Return the SQL of what `order_id` returns, for an SQL expression."""
    return f"('{_ORDER_PREFIX}' || lpad(to_hex(({number})::bigint), 12, '0'))::uuid"


def fill(url: str, orders: int) -> int:
    """Put `orders` orders of a tenth as many users into the empty, migrated database at `url`.

    Returns:
        How many users there are.
    """
    users = max(1, orders // ORDERS_EACH)
    defaults = Settings.model_fields
    passwords = Passwords(
        time_cost=defaults["argon2_time_cost"].default,
        memory_cost=defaults["argon2_memory_cost"].default,
        parallelism=defaults["argon2_parallelism"].default,
        places=1,
    )
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        cursor = connection.cursor()
        cursor.execute(
            f"""
            INSERT INTO users
            SELECT {user_id_sql("n")}, 'User ' || n, 'user' || n || '@example.com', %s, 'customer', now(),
                   'user' || n || '@example.com'
            FROM generate_series(0, %s) AS n
            """,
            (passwords.hash(PASSWORD), users - 1),
        )
        cursor.execute(
            f"""
            INSERT INTO orders
            SELECT {user_id_sql(f"n %% {users}")}, {order_id_sql("n")}, %s, {TOTAL}, 'confirmed', %s, NULL, NULL,
                   now() - ({orders} - n) * interval '1 second'
            FROM generate_series(0, %s) AS n
            """,
            (ITEMS, ADDRESS, orders - 1),
        )
        # As a database that has run for a while: statistics and the visibility map.
        cursor.execute("VACUUM ANALYZE users, orders")
    finally:
        connection.close()
    return users
