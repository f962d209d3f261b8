"""How successful answers look: explicit representations, and the writing of them."""

from datetime import datetime

import falcon

from shop import exactjson
from shop.accounts import Account
from shop.orders import OwnedOrder, PlacedOrder


def write(response: falcon.Response, document: dict[str, object]) -> None:
    """Put `document` into `response` as JSON."""
    response.data = exactjson.dumps(document)


def user(account: Account) -> dict[str, object]:
    """A user, as registered."""
    return {
        "id": account.id,
        "name": account.name,
        "email": account.email,
        "createdAt": timestamp(account.created_at),
    }


def order(placed: PlacedOrder) -> dict[str, object]:
    """An order, as placed."""
    return {
        "id": placed.id,
        "userId": placed.user_id,
        "items": exactjson.Raw(placed.items),
        "total": placed.total,
        "status": placed.status,
        "shippingAddress": exactjson.Raw(placed.shipping_address),
        "createdAt": timestamp(placed.created_at),
    }


def owned_order(owned: OwnedOrder) -> dict[str, object]:
    """An order with its owner."""
    owner = {"id": owned.order.user_id, "name": owned.owner_name, "email": owned.owner_email}
    return order(owned.order) | {"user": owner}


def timestamp(moment: datetime) -> str:
    """Return a UTC moment in the form of RFC 3339 with ``Z``, always with microseconds."""
    # A tenth of the time of strftime: a page of 100 orders has 100 of them.
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
