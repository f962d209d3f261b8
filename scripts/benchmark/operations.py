"""The measured operations: their requests, and their SQL statements."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from benchmark import rows
from shop.domain import accounts, events, orders
from shop.security.tokens import Actor, Tokens
from shop.storage.statements import Statement

# The load uses this many users from all parts of the table; a worker can remember more tokens than that.
SPREAD = 2000


class Request(NamedTuple):
    """One HTTP request of a load."""

    method: str
    path: str
    headers: dict[str, str]
    body: str | None = None


class Operation(NamedTuple):
    """An operation of the service.

    Attributes:
        name: Its method and path.
        request: Returns the request of a user, given the user, the number of users and the token.
        script: Its statement as a script for pgbench, with `{users}` and `{step}` to fill in; None if the database is
            not the main cost of the operation.
        status: The status of its response.
    """

    name: str
    request: Callable[[int, int, str], Request]
    script: str | None
    status: int


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _get_user(user: int, _users: int, token: str) -> Request:
    return Request("GET", f"/users/{rows.user_id(user)}", _bearer(token))


def _get_order(user: int, users: int, token: str) -> Request:
    order = user + users * (user % rows.ORDERS_EACH)
    return Request("GET", f"/orders/{rows.order_id(order)}", _bearer(token))


def _list_orders(user: int, _users: int, token: str) -> Request:
    return Request("GET", f"/users/{rows.user_id(user)}/orders", _bearer(token))


def _place_order(user: int, _users: int, token: str) -> Request:
    items, address = json.loads(rows.ITEMS), json.loads(rows.ADDRESS)
    body = {"userId": rows.user_id(user), "items": items, "shippingAddress": address}
    return Request("POST", "/orders", _bearer(token) | {"Content-Type": "application/json"}, json.dumps(body))


def _log_in(user: int, _users: int, _token: str) -> Request:
    body = {"email": rows.email(user), "password": rows.PASSWORD}
    return Request("POST", "/users/login", {"Content-Type": "application/json"}, json.dumps(body))


def _script(statement: Statement, **expressions: str) -> str:
    """Return a statement as a script for pgbench: the same SQL, with an SQL expression in each slot."""
    sql = statement.sql
    for slot in statement._values:
        sql = sql.replace("%s", expressions[str(slot)], 1)
    user = f"\\set user (random(0, {SPREAD - 1}) * {{step}}) % {{users}}"
    order = f"\\set order :user + {{users}} * (:user % {rows.ORDERS_EACH})"
    return f"{user}\n{order}\n{sql};\n"


def _literal(text: str) -> str:
    """Return JSON text as an SQL literal in a template."""
    return f"'{text}'".replace("{", "{{").replace("}", "}}")


_USER = rows.user_id_sql(":user")
_ORDER = rows.order_id_sql(":order")

OPERATIONS = (
    Operation("GET /users/{id}", _get_user, _script(accounts._FIND, id=_USER), 200),
    Operation("GET /orders/{id}", _get_order, _script(orders._FIND_OWN, user_id=_USER, id=_ORDER), 200),
    Operation(
        "GET /users/{id}/orders",
        _list_orders,
        _script(
            orders._LIST_ALL,
            user_id=_USER,
            created_at="'infinity'",
            id="'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            limit="21",
        ),
        200,
    ),
    Operation(
        "POST /orders",
        _place_order,
        _script(
            orders._INSERT,
            user_id=_USER,
            id="uuidv7()",
            items=_literal(json.dumps(json.loads(rows.ITEMS))),
            total=rows.TOTAL,
            status="'confirmed'",
            shipping_address=_literal(rows.ADDRESS),
            idempotency_key="NULL",
            request_digest="NULL",
            created_at="now()",
            events=_literal(events.placed(status="confirmed", total=Decimal(rows.TOTAL), now=datetime.now(UTC))),
        ),
        201,
    ),
    Operation("POST /users/login", _log_in, None, 200),
)
READS = OPERATIONS[:3]
GET_USER, PLACE_ORDER, LOG_IN = OPERATIONS[0], OPERATIONS[3], OPERATIONS[4]


def requests(operation: Operation, users: int, tokens: Tokens) -> list[Request]:
    """Return the requests of an operation, one for each of `SPREAD` users."""
    step = max(1, users // SPREAD)
    return [
        operation.request(user, users, tokens.issue(Actor(rows.user_id(user), "customer")))
        for user in range(0, min(users, SPREAD * step), step)
    ]
