"""The rows of the measured database. SQL makes them; each id follows from a number, so that requests can name it."""

import psycopg2

from shop.security.passwords import Passwords
from shop.settings import Settings

# All users have this password, and the same hash of it.
PASSWORD = "analytical engine"
COSTS = ("time_cost", "memory_cost", "parallelism")
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
    """Return the id of a user; users are numbered from 0."""
    return f"{_USER_PREFIX}{number:012x}"


def order_id(number: int) -> str:
    """Return the id of an order. The orders of user n are n, n + users, n + 2 * users and so on."""
    return f"{_ORDER_PREFIX}{number:012x}"


def email(number: int) -> str:
    """Return the e-mail address of a user."""
    return f"user{number}@example.com"


def user_id_sql(number: str) -> str:
    """Return `user_id` as SQL, for an SQL expression in place of the number."""
    return f"('{_USER_PREFIX}' || lpad(to_hex(({number})::bigint), 12, '0'))::uuid"


def order_id_sql(number: str) -> str:
    """Return `order_id` as SQL, for an SQL expression in place of the number."""
    return f"('{_ORDER_PREFIX}' || lpad(to_hex(({number})::bigint), 12, '0'))::uuid"


def default_passwords() -> Passwords:
    """Return what hashes passwords with the default parameters of the service."""
    cost = {name: Settings.model_fields[f"argon2_{name}"].default for name in COSTS}
    return Passwords(**cost, slots=1)


def fill(url: str, orders: int) -> int:
    """Fill the empty, migrated database at `url` with `orders` orders and a tenth as many users.

    Returns:
        The number of users.
    """
    users = max(1, orders // ORDERS_EACH)
    passwords = default_passwords()
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
        # Statistics and the visibility map, which a database has after some time.
        cursor.execute("VACUUM ANALYZE users, orders")
    finally:
        connection.close()
    return users
