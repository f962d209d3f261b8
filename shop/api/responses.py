"""How answers look: what all have, explicit representations of the successful ones, and the writing of them."""

from datetime import datetime
from typing import Any

import falcon

from shop import exactjson
from shop.domain.accounts import Account
from shop.domain.orders import OwnedOrder, PlacedOrder

# The order of fields that the contract shows. PostgreSQL keeps another one in jsonb: by length, then by alphabet.
_ADDRESS_FIELDS = ("street", "city", "state", "zipCode", "country")


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
        "createdAt": timestamp(account.created_at),
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
        "createdAt": timestamp(placed.created_at),
    }


def owned_order(owned: OwnedOrder) -> dict[str, object]:
    """An order with its owner."""
    owner = {"id": owned.order.user_id, "name": owned.owner_name, "email": owned.owner_email}
    return order(owned.order) | {"user": owner}


def _item(stored: dict[str, Any]) -> dict[str, object]:
    return {
        "productId": stored["productId"],
        "name": stored["name"],
        "price": exactjson.digits(stored["price"]),
        "quantity": stored["quantity"],
    }


def _address(stored: dict[str, str]) -> dict[str, str]:
    return {field: stored[field] for field in _ADDRESS_FIELDS if field in stored}


def timestamp(moment: datetime) -> datetime | str:
    """Return a UTC moment as what is written in the form of RFC 3339 with ``Z``, always with microseconds."""
    # The writer takes a tenth of the time of isoformat, and a page has up to 100 of them; but it drops a fraction of 0.
    return moment if moment.microsecond else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
