"""``/orders`` and ``/orders/{order_id}``."""

from collections.abc import Callable
from datetime import datetime

import falcon

from shop import orders
from shop.api import responses, schemas
from shop.api.parsing import takes


class OrderCollection:
    """``/orders``"""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock

    @takes(body=schemas.NewOrder, headers=schemas.OrderHeaders)
    def on_post(
        self,
        request: falcon.Request,
        response: falcon.Response,
        body: schemas.NewOrder,
        headers: schemas.OrderHeaders,
    ) -> None:
        """Place an order."""
        placed, replayed = orders.place(
            request.context.actor,
            user_id=body.user_id,
            items=[item.as_item() for item in body.items],
            shipping_address=body.shipping_address.as_dict(),
            now=self._clock(),
            idempotency_key=headers.idempotency_key,
        )
        response.status = falcon.HTTP_201
        response.location = f"/orders/{placed.id}"
        if replayed:
            response.set_header("Idempotent-Replayed", "true")
        responses.write(response, responses.order(placed))


class OrderItem:
    """``/orders/{order_id}``"""

    def on_get(self, request: falcon.Request, response: falcon.Response, order_id: str) -> None:
        """Return an order with its owner."""
        owned = orders.find(request.context.actor, order_id)
        responses.write(response, responses.owned_order(owned))

    @takes(body=schemas.StatusChange)
    def on_patch(
        self, request: falcon.Request, response: falcon.Response, order_id: str, body: schemas.StatusChange
    ) -> None:
        """Change an order's status."""
        changed = orders.change_status(request.context.actor, order_id, body.status)
        responses.write(response, responses.order(changed))
