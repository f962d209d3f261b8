"""Build responses: the headers that all have, and the JSON representation of each resource."""

from typing import Any

import falcon

from shop import exactjson
from shop.domain.accounts import Account
from shop.domain.events import Event
from shop.domain.orders import OwnedOrder, PlacedOrder

_EVENT_FIELDS = ("orderId", "userId", "status", "previousStatus", "total")


class Response(falcon.Response):
    """Falcon's response with headers that forbid caching and content sniffing, unless the responder changes them.

    Most responses have personal data, which no cache or shared browser should keep.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # RFC 9111, section 5.2.2.5.
        self.preset("cache-control", "no-store")
        # https://fetch.spec.whatwg.org/#x-content-type-options-header
        self.preset("x-content-type-options", "nosniff")

    def preset(self, name: str, value: str) -> None:
        """Set a header without the checks of `set_header`, which take time.

        Args:
            name: In lower case.
            value: Of visible ASCII characters.
        """
        self._headers[name] = value


def write(response: falcon.Response, document: dict[str, object]) -> None:
    """Set `document` as the JSON body of `response`."""
    response.data = exactjson.dumps(document)


def user(account: Account) -> dict[str, object]:
    """Return the representation of a user."""
    return {
        "id": account.id,
        "name": account.name,
        "email": account.email,
        "createdAt": exactjson.timestamp(account.created_at),
    }


def order(placed: PlacedOrder) -> dict[str, object]:
    """Return the representation of an order."""
    return {
        "id": placed.id,
        "userId": placed.user_id,
        "items": exactjson.Raw(placed.items),
        "total": exactjson.number(placed.total),
        "status": placed.status,
        "shippingAddress": exactjson.Raw(placed.shipping_address),
        "createdAt": exactjson.timestamp(placed.created_at),
    }


def owned_order(owned: OwnedOrder) -> dict[str, object]:
    """Return the representation of an order with its owner."""
    owner = {"id": owned.order.user_id, "name": owned.owner_name, "email": owned.owner_email}
    return order(owned.order) | {"user": owner}


def event(recorded: Event) -> dict[str, object]:
    """Return the representation of an event."""
    return {"id": recorded.id, "type": recorded.type, "time": recorded.time, "data": event_data(recorded)}


def event_data(recorded: Event) -> dict[str, object]:
    """Return the data of an event, as the API and webhooks show it."""
    stored = recorded.data
    return {
        field: exactjson.digits(stored[field]) if field == "total" else stored[field]
        for field in _EVENT_FIELDS
        if field in stored
    }
