"""Orders: place, find."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from peewee import IntegrityError

from shop import exactjson
from shop.database import FOREIGN_KEY_VIOLATION, Slot, Statement, database, sqlstate
from shop.errors import FieldError, OrderNotFound, UserNotFound, ValidationFailed
from shop.ids import new_id, parse_id
from shop.models import Order, User
from shop.tokens import Actor

CENT = Decimal("0.01")
# The most that the column numeric(10, 2) holds.
MAX_TOTAL = Decimal("99999999.99")


class Item(NamedTuple):
    """One position of an order; `price` is for one piece, exact to the cent."""

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


# Both JSON columns come as text: what is sent on as it is need not be parsed on the way.
_ORDER = (
    Order.id,
    Order.user,
    Order.items.cast("text"),
    Order.total,
    Order.status,
    Order.shipping_address.cast("text"),
    Order.created_at,
)

# One statement for "does the user exist" and "insert": one round trip, and nothing can happen in between.
_INSERT = Statement(
    Order.insert_from(
        User.select(
            User.id,
            Slot("id", "uuid"),
            Slot("items", "jsonb"),
            Slot("total", "numeric"),
            Slot("status", "text"),
            Slot("shipping_address", "jsonb"),
            Slot("created_at", "timestamptz"),
        ).where(User.id == Slot("user_id")),
        [
            Order.user,
            Order.id,
            Order.items,
            Order.total,
            Order.status,
            Order.shipping_address,
            Order.created_at,
        ],
    ).returning(*_ORDER)
)
_WITH_OWNER = Order.select(*_ORDER, User.name, User.email).join(User)
_FIND_OWN = Statement(_WITH_OWNER.where((Order.user == Slot("user_id")) & (Order.id == Slot("id"))))
_FIND_ANY = Statement(_WITH_OWNER.where(Order.id == Slot("id")))


def place(
    actor: Actor, *, user_id: str, items: Sequence[Item], shipping_address: dict[str, str], now: datetime
) -> PlacedOrder:
    """Place an order of `items` for the actor, confirmed at once.

    Raises:
        UserNotFound: `user_id` is not the actor, or the actor's account has been deleted.
        ValidationFailed: The total is more than `MAX_TOTAL`.
    """
    if parse_id(user_id) != actor.user_id:
        raise UserNotFound
    total = sum((item.price * item.quantity for item in items), Decimal(0)).quantize(CENT)
    if total > MAX_TOTAL:
        sentence = f"must not come to a total of more than {MAX_TOTAL}"
        raise ValidationFailed(f"items {sentence}", [FieldError("items", sentence)])
    try:
        row = database.row(
            _INSERT,
            user_id=actor.user_id,
            id=new_id(),
            items=_items_json(items),
            total=total,
            status="confirmed",
            shipping_address=exactjson.dumps(shipping_address).decode(),
            created_at=now,
        )
    except IntegrityError as error:
        # The user was deleted after the SELECT of the statement had seen it.
        if sqlstate(error) == FOREIGN_KEY_VIOLATION:
            raise UserNotFound from error
        raise
    if row is None:
        raise UserNotFound
    return PlacedOrder._make(row)


def find(actor: Actor, order_id: str) -> OwnedOrder:
    """Return the order `order_id`, which is one of the actor's own unless staff asks.

    Raises:
        OrderNotFound: There is none, it is somebody else's, or `order_id` is not an id at all.
    """
    parsed = parse_id(order_id)
    if parsed is None:
        raise OrderNotFound
    if actor.is_staff:
        row = database.row(_FIND_ANY, id=parsed)
    else:
        row = database.row(_FIND_OWN, user_id=actor.user_id, id=parsed)
    if row is None:
        raise OrderNotFound
    *fields, owner_name, owner_email = row
    return OwnedOrder(PlacedOrder._make(fields), owner_name, owner_email)


def _items_json(items: Sequence[Item]) -> str:
    """Return the items as the API shows them, each price with its two decimals."""
    return exactjson.dumps(
        [
            {
                "productId": item.product_id,
                "name": item.name,
                "price": item.price.quantize(CENT),
                "quantity": item.quantity,
            }
            for item in items
        ]
    ).decode()
