"""``/orders`` and ``/orders/{order_id}``."""

from collections.abc import Callable
from datetime import datetime

import falcon

from shop import orders
from shop.api import body, responses, schemas


class OrderCollection:
    """``/orders``"""

    def __init__(self, clock: Callable[[], datetime], max_body: int) -> None:
        self._clock = clock
        self._max_body = max_body

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        """Place an order."""
        sent = body.parse(request, schemas.NewOrder, limit=self._max_body)
        placed = orders.place(
            request.context.actor,
            user_id=sent.user_id,
            items=[item.as_item() for item in sent.items],
            shipping_address=sent.shipping_address.as_dict(),
            now=self._clock(),
        )
        response.status = falcon.HTTP_201
        response.location = f"/orders/{placed.id}"
        responses.write(response, responses.order(placed))


class OrderItem:
    """``/orders/{order_id}``"""

    def on_get(self, request: falcon.Request, response: falcon.Response, order_id: str) -> None:
        """Return an order with its owner."""
        owned = orders.find(request.context.actor, order_id)
        responses.write(response, responses.owned_order(owned))
