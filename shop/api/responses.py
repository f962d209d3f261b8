"""How answers look: what all have, explicit representations of the successful ones, and the writing of them."""

from datetime import datetime
from typing import Any

import falcon

from shop import exactjson
from shop.accounts import Account
from shop.orders import OwnedOrder, PlacedOrder


class Response(falcon.Response):
    """An answer that nobody may keep or take for something else, unless its responder says that it may be kept.

    Most answers are about somebody: what a cache on the way, or a browser that is handed on, has not kept is not lost.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # RFC 9111, section 5.2.2.5.
        self.set_header("Cache-Control", "no-store")
        # Browsers take the media type for what it says (https://fetch.spec.whatwg.org/#x-content-type-options-header).
        self.set_header("X-Content-Type-Options", "nosniff")


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
