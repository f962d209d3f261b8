"""The schemas of responses, as pydantic models: for the OpenAPI document, and for the tests that check responses.

`shop.api.responses` builds the JSON from rows without these models, because that is faster.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from shop.api.schemas import LineItem, Status

Id = Annotated[str, Field(json_schema_extra={"format": "uuid"}, examples=["01994f8e-54a2-7b30-a4c8-4c6b1d0e7f21"])]
Time = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-01-02T03:04:05.678901Z"], pattern=r"Z$")
]
Money = Annotated[float, WithJsonSchema({"type": "number", "minimum": 0, "description": "exact to the cent"})]


class ResponseModel(BaseModel):
    """A response in camelCase with exactly the declared fields."""

    # Only the OpenAPI document and tests use these models, so pydantic builds them on first use.
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", defer_build=True)


class Owner(ResponseModel):
    """The owner of an order."""

    id: Id
    name: str = Field(examples=["Ada Lovelace"])
    email: str = Field(examples=["ada@example.com"])


class User(Owner):
    """A user."""

    created_at: Time


class Session(Owner):
    """A user who has logged in, with the token."""

    token: str = Field(description="for the header `Authorization`, after `Bearer`")
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="how long the token is valid, in seconds", examples=[3600])


class ShippingAddress(ResponseModel):
    """A shipping address. Fields that the client did not send are absent."""

    street: str = Field(examples=["1 Main St"])
    city: str = Field("", examples=["London"])
    state: str = Field("", examples=["Greater London"])
    zip_code: str = Field("", examples=["N1 9GU"])
    country: str = Field("", examples=["GB"])


class Order(ResponseModel):
    """An order."""

    id: Id
    user_id: Id
    items: list[LineItem]
    total: Money = Field(examples=[59.98])
    status: Status = Field(examples=["confirmed"])
    shipping_address: ShippingAddress
    created_at: Time


class OwnedOrder(Order):
    """An order with its owner."""

    user: Owner


class OrderPage(ResponseModel):
    """A page of a user's orders, newest first."""

    orders: list[Order]
    next_cursor: str | None = Field(description="the parameter `cursor` of the next page; null on the last page")


class PlacedData(ResponseModel):
    """The order as it was placed."""

    order_id: Id
    user_id: Id
    status: Status = Field(examples=["confirmed"])
    total: Money = Field(examples=[59.98])


class StatusChangedData(ResponseModel):
    """The order's status after and before the change."""

    order_id: Id
    user_id: Id
    status: Status = Field(examples=["shipped"])
    previous_status: Status = Field(examples=["confirmed"])


class OrderPlaced(ResponseModel):
    """An order was placed."""

    id: Id
    type: Literal["order.placed"]
    time: Time
    data: PlacedData


class OrderStatusChanged(ResponseModel):
    """An order's status was changed."""

    id: Id
    type: Literal["order.status_changed"]
    time: Time
    data: StatusChangedData


class OrderPlacedWebhook(ResponseModel):
    """An order was placed."""

    type: Literal["order.placed"]
    timestamp: Time
    data: PlacedData


class OrderStatusChangedWebhook(ResponseModel):
    """An order's status was changed."""

    type: Literal["order.status_changed"]
    timestamp: Time
    data: StatusChangedData


# The body of each webhook, by the type of its event.
WEBHOOKS: dict[str, type[ResponseModel]] = {
    "order.placed": OrderPlacedWebhook,
    "order.status_changed": OrderStatusChangedWebhook,
}


class OrderEvents(ResponseModel):
    """The events of an order, oldest first."""

    events: list[OrderPlaced | OrderStatusChanged]


class OpenApi(BaseModel):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, object]
    paths: dict[str, object]
    components: dict[str, object]


class Health(ResponseModel):
    """The state of the service."""

    status: str = Field(examples=["ready"])


class Fault(ResponseModel):
    """One invalid field."""

    field: str = Field(examples=["items[0].price"])
    error: str = Field(examples=["must be at least 0"])


class Problem(ResponseModel):
    """An error (RFC 9457). All errors have this shape."""

    title: str = Field(examples=["Bad Request"])
    status: int = Field(examples=[400])
    code: str = Field(examples=["VALIDATION_ERROR"])
    error: str = Field(description="one sentence for people", examples=["items[0].price must be at least 0"])
    errors: list[Fault] = Field([], description="all invalid fields")
    request_id: str = Field(description="the id in the header `X-Request-ID`")
