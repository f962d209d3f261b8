"""Orders: place, find, list, and change the status."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from peewee import JOIN, SQL, Alias, Cast, Expression, Field, IntegrityError, Query, Tuple, fn

from shop import exactjson
from shop.domain import events
from shop.domain.events import Event
from shop.domain.models import Order, User, slots
from shop.errors import (
    FieldError,
    Forbidden,
    IdempotencyKeyReused,
    InvalidTransition,
    OrderNotFound,
    ServiceUnavailable,
    UserNotFound,
    ValidationFailed,
)
from shop.ids import new_id, parse_id
from shop.security.cursors import Position
from shop.security.tokens import Actor
from shop.storage.database import FOREIGN_KEY_VIOLATION, Row, database, sqlstate
from shop.storage.statements import Slot, Statement

# The statuses that may follow each status. Orders are confirmed at once; "pending" is for orders made elsewhere.
TRANSITIONS = {
    "pending": ("confirmed", "cancelled"),
    "confirmed": ("shipped", "cancelled"),
    "shipped": ("delivered",),
    "delivered": (),
    "cancelled": (),
}
STATUSES = tuple(TRANSITIONS)
CONFIRMED = "confirmed"  # the status of a new order
CENT = Decimal("0.01")
# The maximum of the column, numeric(10, 2).
MAX_TOTAL = Decimal("99999999.99")


class Item(NamedTuple):
    """A line item of an order; `price` is the exact price of one piece."""

    product_id: str
    name: str
    price: Decimal
    quantity: int


class PlacedOrder(NamedTuple):
    """An order as it is stored; `items` and `shipping_address` are JSON text."""

    id: str
    user_id: str
    items: str
    total: Decimal
    status: str
    shipping_address: str
    created_at: datetime


class OwnedOrder(NamedTuple):
    """An order together with what its reader may know of its owner."""

    order: PlacedOrder
    owner_name: str
    owner_email: str


def _json_text(column: Field) -> Alias | Cast:
    """Return a JSON column as text for the API: without blanks, with exact prices, fields in jsonb's order.

    Nothing in these columns is null; `json_strip_nulls` is PostgreSQL's only function that leaves out the blanks.
    """
    return fn.json_strip_nulls(column.cast("json")).cast("text").alias(column.column_name)


# The columns of a `PlacedOrder`.
COLUMNS = (
    Order.id,
    Order.user,
    _json_text(Order.items),
    Order.total,
    Order.status,
    _json_text(Order.shipping_address),
    Order.created_at,
)

# One round trip, and on Citus a single node. The foreign key checks that the user exists.
_INSERT = Statement(
    Order.insert(
        slots(Order, "user_id", "id", "items", "total", "status", "shipping_address", "created_at", "events")
        | slots(Order, "idempotency_key", "request_digest")
        | {Order.events_taken: SQL("0"), Order.untaken_since: Slot("created_at")}
    )
    # If requests with one key race, one inserts; the others wait for it here and then find its order.
    .on_conflict(action="IGNORE", conflict_target=[Order.user, Order.idempotency_key])
    .returning(_json_text(Order.items), _json_text(Order.shipping_address))
)
_FIND_BY_KEY = Statement(
    Order.select(Order.request_digest, *COLUMNS).where(
        (Order.user == Slot("user_id")) & (Order.idempotency_key == Slot("idempotency_key"))
    )
)
# The start of every list: all orders follow it.
_BEFORE_ALL = ("infinity", "ffffffff-ffff-ffff-ffff-ffffffffffff")


def _list_statement(*filters: Expression) -> Statement:
    """Return the query for a page. Without such a user it has no row; without such orders, one row of NULLs."""
    follows = Tuple(Order.created_at, Order.id) < Tuple(Slot("created_at", "timestamptz"), Slot("id", "uuid"))
    page = (
        Order.select(*COLUMNS)
        .where(Order.user == Slot("user_id"), follows, *filters)
        .order_by(Order.created_at.desc(), Order.id.desc())
        .limit(Slot("limit"))
        .alias("page")
    )
    return Statement(
        User.select(*(getattr(page.c, column) for column in PlacedOrder._fields))
        .join(page, JOIN.LEFT_OUTER, on=(page.c.user_id == User.id))
        .where(User.id == Slot("user_id"))
        .order_by(page.c.created_at.desc(), page.c.id.desc())
    )


_LIST_ALL = _list_statement()
_LIST_BY_STATUS = _list_statement(Order.status == Slot("status"))


def _for_owner_and_staff(query: Query) -> tuple[Statement, Statement]:
    """Return a query on one order twice: restricted to an owner, and for staff."""
    on_order = query.where(Order.id == Slot("id"))
    return Statement(on_order.where(Order.user == Slot("user_id"))), Statement(on_order)


_FIND_OWN, _FIND_ANY = _for_owner_and_staff(Order.select(*COLUMNS, User.name, User.email).join(User))
_EVENTS_OWN, _EVENTS_ANY = _for_owner_and_staff(Order.select(Order.id, Order.user, Order.events.cast("text")))
# It finds a row only if the transition from its status is allowed.
_CHANGE_OWN, _CHANGE_ANY = _for_owner_and_staff(
    Order.update(
        {
            Order.status: Slot("status"),
            Order.events: events.status_changed(),
            Order.untaken_since: fn.COALESCE(Order.untaken_since, Slot("now", "timestamptz")),
        }
    )
    .where(Order.status == fn.ANY(Slot("before", "text[]")))
    .returning(*COLUMNS)
)


def place(
    actor: Actor,
    *,
    user_id: str,
    items: Sequence[Item],
    shipping_address: dict[str, str],
    now: datetime,
    idempotency_key: str | None = None,
) -> tuple[PlacedOrder, bool]:
    """Place an order for the actor. Its status is ``confirmed``.

    Args:
        actor: The acting user.
        user_id: The owner of the order; it must be the actor.
        items: At least one item.
        shipping_address: The fields of the address that the client sent.
        now: The current time.
        idempotency_key: A retry with the same key returns the first order instead of placing a second one.

    Returns:
        The order, and whether it is a replay of an earlier request.

    Raises:
        UserNotFound: `user_id` is not the actor, or the actor's account was deleted.
        ValidationFailed: The total exceeds `MAX_TOTAL`.
        IdempotencyKeyReused: The actor has used the key for another request.
    """
    if parse_id(user_id) != actor.user_id:
        raise UserNotFound
    total = sum((item.price * item.quantity for item in items), Decimal(0)).quantize(CENT)
    if total > MAX_TOTAL:
        sentence = f"must not come to a total of more than {MAX_TOTAL}"
        raise ValidationFailed(f"items {sentence}", [FieldError("items", sentence)])
    items_json, address_json = _items_json(items), exactjson.dumps(shipping_address)
    digest = hashlib.sha256(items_json + b"\n" + address_json).digest() if idempotency_key else None
    id_ = new_id()
    try:
        row = database.row(
            _INSERT,
            user_id=actor.user_id,
            id=id_,
            items=items_json.decode(),
            total=total,
            status=CONFIRMED,
            shipping_address=address_json.decode(),
            idempotency_key=idempotency_key,
            request_digest=digest,
            created_at=now,
            events=events.placed(status=CONFIRMED, total=total, now=now),
        )
    except IntegrityError as error:
        if sqlstate(error) == FOREIGN_KEY_VIOLATION:
            raise UserNotFound from error
        raise
    if row is not None:
        items_text, address_text = row
        return PlacedOrder(id_, actor.user_id, items_text, total, CONFIRMED, address_text, now), False
    return _placed_before(actor, idempotency_key, digest), True


def _placed_before(actor: Actor, idempotency_key: str | None, digest: bytes | None) -> PlacedOrder:
    """Return the current state of the order that the same request with this key placed."""
    row = (
        database.row(_FIND_BY_KEY, user_id=actor.user_id, idempotency_key=idempotency_key) if idempotency_key else None
    )
    if row is None:
        raise UserNotFound
    placed_digest, *fields = row
    if bytes(placed_digest) != digest:
        raise IdempotencyKeyReused
    return PlacedOrder._make(fields)


def find(actor: Actor, order_id: str) -> OwnedOrder:
    """Return the order `order_id`; customers find only their own.

    Raises:
        OrderNotFound: No such order, another user's order, or a malformed id.
    """
    row = _row(actor, _FIND_OWN, _FIND_ANY, order_id)
    if row is None:
        raise OrderNotFound
    *fields, owner_name, owner_email = row
    return OwnedOrder(PlacedOrder._make(fields), owner_name, owner_email)


def list_events(actor: Actor, order_id: str) -> list[Event]:
    """Return the events of an order, oldest first; customers find only their own orders.

    Raises:
        OrderNotFound: No such order, another user's order, or a malformed id.
    """
    row = _row(actor, _EVENTS_OWN, _EVENTS_ANY, order_id)
    if row is None:
        raise OrderNotFound
    return events.stored(*row)


def _row(actor: Actor, own: Statement, any_: Statement, order_id: str, **values: object) -> Row | None:
    """Run a statement on an order; None without such an order, or if the actor may not see it."""
    parsed = parse_id(order_id)
    if parsed is None:
        return None
    return database.row(any_ if actor.is_staff else own, user_id=actor.user_id, id=parsed, **values)


def list_for(
    actor: Actor, user_id: str, *, status: str | None, after: Position | None, limit: int
) -> tuple[list[PlacedOrder], bool]:
    """Return a page of the orders of `user_id`, newest first, and whether more pages follow.

    One query also checks that the user exists.

    Args:
        actor: The owner of the orders, or staff.
        user_id: The owner of the orders.
        status: Only orders with this status; None for all.
        after: The end of the previous page; None for the first page.
        limit: The maximum number of orders, at least 1.

    Raises:
        UserNotFound: No such user, another user, or a malformed id.
    """
    parsed = parse_id(user_id)
    if parsed is None or not (actor.is_staff or parsed == actor.user_id):
        raise UserNotFound
    created_at, id_ = after or _BEFORE_ALL
    rows = database.rows(
        _LIST_ALL if status is None else _LIST_BY_STATUS,
        user_id=parsed,
        status=status,
        created_at=created_at,
        id=id_,
        # One more than requested shows whether another page follows.
        limit=limit + 1,
    )
    if not rows:
        raise UserNotFound
    orders = [PlacedOrder._make(row) for row in rows if row[0] is not None]
    return orders[:limit], len(orders) > limit


def change_status(actor: Actor, order_id: str, status: str, *, now: datetime) -> PlacedOrder:
    """Change the status of an order and return the order. If changes race, one wins.

    Raises:
        OrderNotFound: No such order, another user's order, or a malformed id.
        Forbidden: A customer may only cancel an order.
        InvalidTransition: The current status does not allow the change; the message says what it allows.
        ServiceUnavailable: Other changes won each race.
    """
    if not actor.is_staff and status != "cancelled":
        find(actor, order_id)
        raise Forbidden("You may only cancel your order; other changes are for staff to make")
    before = _leading_to(status)
    event = events.new_status(status, now)
    # A retry for each lost race. No order changes more often than there are statuses, because none is reached twice.
    for _ in STATUSES:
        row = _row(actor, _CHANGE_OWN, _CHANGE_ANY, order_id, status=status, before=before, event=event, now=now)
        if row is not None:
            return PlacedOrder._make(row)
        # There is no such order, or its status did not allow the change when the statement ran.
        current = find(actor, order_id).order.status
        if current not in before:
            raise _invalid_transition(current)
    raise ServiceUnavailable("The order could not be changed; try again")


def _leading_to(status: str) -> list[str]:
    return [before for before, after in TRANSITIONS.items() if status in after]


def _invalid_transition(current: str) -> InvalidTransition:
    allowed = " or ".join(TRANSITIONS[current])
    fact = f"is {current} and can only become {allowed}" if allowed else f"is {current}, which is final"
    return InvalidTransition(f"The order {fact}", [FieldError("status", fact)])


def _items_json(items: Sequence[Item]) -> bytes:
    """Return the items as they are stored, each price with its two decimals."""
    return exactjson.dumps(
        [
            {
                "productId": item.product_id,
                "name": item.name,
                "price": exactjson.number(item.price.quantize(CENT)),
                "quantity": item.quantity,
            }
            for item in items
        ]
    )
