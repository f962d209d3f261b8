"""The resources of ``/orders``, ``/orders/{order_id}`` and ``/orders/{order_id}/events``."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import falcon

from shop.api import response_schemas, responses, schemas
from shop.api.context import Request
from shop.api.operations import Success, operation
from shop.domain import orders
from shop.errors import Forbidden, IdempotencyKeyReused, InvalidTransition, OrderNotFound, UserNotFound


@dataclass(eq=False)
class OrdersResource:
    """``/orders``."""

    clock: Callable[[], datetime]

    @operation(
        "placeOrder",
        body=schemas.NewOrder,
        headers=schemas.OrderHeaders,
        success=Success(201, "The order", response_schemas.Order, ("Location",), ("Idempotent-Replayed",)),
        errors=(UserNotFound, IdempotencyKeyReused),
    )
    def on_post(
        self,
        request: Request,
        response: responses.Response,
        body: schemas.NewOrder,
        headers: schemas.OrderHeaders,
    ) -> None:
        """Place an order."""
        placed, replayed = orders.place(
            request.context.actor,
            user_id=body.user_id,
            items=[item.as_item() for item in body.items],
            shipping_address=body.shipping_address.as_dict(),
            now=self.clock(),
            idempotency_key=headers.idempotency_key,
        )
        response.status = falcon.HTTP_201
        response.preset("location", f"/orders/{placed.id}")
        if replayed:
            response.set_header("Idempotent-Replayed", "true")
        responses.write(response, responses.order(placed))


@dataclass(eq=False)
class OrderResource:
    """``/orders/{order_id}``."""

    clock: Callable[[], datetime]

    @operation("getOrder", success=Success(200, "The order", response_schemas.OwnedOrder), errors=(OrderNotFound,))
    def on_get(self, request: Request, response: falcon.Response, order_id: str) -> None:
        """Return an order with its owner."""
        owned = orders.find(request.context.actor, order_id)
        responses.write(response, responses.owned_order(owned))

    @operation(
        "changeOrderStatus",
        body=schemas.StatusChange,
        success=Success(200, "The order", response_schemas.Order),
        errors=(Forbidden, OrderNotFound, InvalidTransition),
    )
    def on_patch(self, request: Request, response: falcon.Response, order_id: str, body: schemas.StatusChange) -> None:
        """Cancel an order, or as staff set its next status."""
        changed = orders.change_status(request.context.actor, order_id, body.status, now=self.clock())
        responses.write(response, responses.order(changed))


class OrderEventsResource:
    """``/orders/{order_id}/events``."""

    @operation(
        "listOrderEvents", success=Success(200, "The events", response_schemas.OrderEvents), errors=(OrderNotFound,)
    )
    def on_get(self, request: Request, response: falcon.Response, order_id: str) -> None:
        """Return the events of an order, oldest first."""
        listed = orders.list_events(request.context.actor, order_id)
        responses.write(response, {"events": [responses.event(event) for event in listed]})
