"""How answers look: what all have, explicit representations of the successful ones, and the writing of them."""

from typing import Any

import falcon

from shop import exactjson
from shop.domain.accounts import Account
from shop.domain.events import Event
from shop.domain.orders import OwnedOrder, PlacedOrder

# The order of fields that the contract shows. PostgreSQL keeps another one in jsonb: by length, then by alphabet.
_ADDRESS_FIELDS = ("street", "city", "state", "zipCode", "country")

_EVENT_FIELDS = ("orderId", "userId", "status", "previousStatus", "total")


class Response(falcon.Response):
    """An answer that nobody may keep or take for something else, unless its responder says that it may be kept.

    Most answers are about somebody: what a cache on the way, or a browser that is handed on, has not kept is not lost.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # RFC 9111, section 5.2.2.5.
        self.preset("cache-control", "no-store")
        # Browsers take the media type for what it says (https://fetch.spec.whatwg.org/#x-content-type-options-header).
        self.preset("x-content-type-options", "nosniff")

    def preset(self, name: str, value: str) -> None:
        """Set a header to what is known to be good, without the look that `set_header` has at it.

        Args:
            name: In lower case.
            value: Of visible ASCII characters.
        """
        self._headers[name] = value


def write(response: falcon.Response, document: dict[str, object]) -> None:
    """Put `document` into `response` as JSON."""
    response.data = exactjson.dumps(document)


def user(account: Account) -> dict[str, object]:
    """A user, as registered."""
    return {
        "id": account.id,
        "name": account.name,
        "email": account.email,
        "createdAt": exactjson.timestamp(account.created_at),
    }


def order(placed: PlacedOrder) -> dict[str, object]:
    """An order, as placed."""
    return {
        "id": placed.id,
        "userId": placed.user_id,
        "items": [_item(item) for item in exactjson.loads_stored(placed.items)],
        "total": exactjson.number(placed.total),
        "status": placed.status,
        "shippingAddress": _address(exactjson.loads_stored(placed.shipping_address)),
        "createdAt": exactjson.timestamp(placed.created_at),
    }


def owned_order(owned: OwnedOrder) -> dict[str, object]:
    """An order with its owner."""
    owner = {"id": owned.order.user_id, "name": owned.owner_name, "email": owned.owner_email}
    return order(owned.order) | {"user": owner}


def event(recorded: Event) -> dict[str, object]:
    """An event of an order."""
    return {"id": recorded.id, "type": recorded.type, "time": recorded.time, "data": event_data(recorded)}


def event_data(recorded: Event) -> dict[str, object]:
    """The data of an event, in the API and in webhooks."""
    stored = recorded.data
    return {
        field: exactjson.digits(stored[field]) if field == "total" else stored[field]
        for field in _EVENT_FIELDS
        if field in stored
    }


def _item(stored: dict[str, Any]) -> dict[str, object]:
    return {
        "productId": stored["productId"],
        "name": stored["name"],
        "price": exactjson.digits(stored["price"]),
        "quantity": stored["quantity"],
    }


def _address(stored: dict[str, str]) -> dict[str, str]:
    return {field: stored[field] for field in _ADDRESS_FIELDS if field in stored}
