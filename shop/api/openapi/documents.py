"""The shapes of the API's answers, as pydantic models: for the description, and for tests that hold answers to it.

`shop.api.responses` writes the answers themselves, from rows, without these on the way.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from shop.domain.orders import STATUSES

Id = Annotated[str, Field(json_schema_extra={"format": "uuid"}, examples=["01994f8e-54a2-7b30-a4c8-4c6b1d0e7f21"])]
Time = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-01-02T03:04:05.678901Z"], pattern=r"Z$")
]
Money = Annotated[float, WithJsonSchema({"type": "number", "minimum": 0, "description": "exact to the cent"})]
Status = Annotated[str, WithJsonSchema({"type": "string", "enum": list(STATUSES)})]


class Document(BaseModel):
    """An answer: camelCase outside; it has the fields it names, and no others."""

    # Serving does without these models, so they are built when somebody looks at them.
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", defer_build=True)


class User(Document):
    """A user, as registered."""

    id: Id
    name: str = Field(examples=["Ada Lovelace"])
    email: str = Field(examples=["ada@example.com"])
    created_at: Time


class Session(Document):
    """A user who has logged in, with the token that says so."""

    id: Id
    name: str = Field(examples=["Ada Lovelace"])
    email: str = Field(examples=["ada@example.com"])
    token: str = Field(description="for the header Authorization, after the word Bearer")
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="how long the token is valid, in seconds", examples=[3600])


class Owner(Document):
    """What an order shows of its owner."""

    id: Id
    name: str = Field(examples=["Ada Lovelace"])
    email: str = Field(examples=["ada@example.com"])


class OrderedItem(Document):
    """One position of an order."""

    product_id: str = Field(examples=["tea-1"])
    name: str = Field(examples=["Tea"])
    price: Money = Field(examples=[29.99])
    quantity: int = Field(examples=[2])


class DeliveryAddress(Document):
    """Where an order goes; parts that were not given are left out."""

    street: str = Field(examples=["1 Main St"])
    city: str = Field("", examples=["London"])
    state: str = Field("", examples=["Greater London"])
    zip_code: str = Field("", examples=["N1 9GU"])
    country: str = Field("", examples=["GB"])


class Order(Document):
    """An order."""

    id: Id
    user_id: Id
    items: list[OrderedItem]
    total: Money = Field(examples=[59.98])
    status: Status = Field(examples=["confirmed"])
    shipping_address: DeliveryAddress
    created_at: Time


class OwnedOrder(Order):
    """An order with its owner."""

    user: Owner


class OrderPage(Document):
    """A page of a history, newest first."""

    orders: list[Order]
    next_cursor: str | None = Field(description="for the parameter cursor of the next page; null on the last")


class Description(BaseModel):
    """The description of the API, as OpenAPI has it."""

    openapi: str
    info: dict[str, object]
    paths: dict[str, object]
    components: dict[str, object]


class Health(Document):
    """How the service is."""

    status: str = Field(examples=["ready"])


class Fault(Document):
    """A fault of one field."""

    field: str = Field(examples=["items[0].price"])
    error: str = Field(examples=["must be at least 0"])


class Problem(Document):
    """An error, of the one shape that all errors have (RFC 9457)."""

    title: str = Field(examples=["Bad Request"])
    status: int = Field(examples=[400])
    code: str = Field(examples=["VALIDATION_ERROR"])
    error: str = Field(description="one sentence for a person", examples=["items[0].price must be at least 0"])
    errors: list[Fault] = Field([], description="the fields at fault, all of them")
    request_id: str = Field(description="as in the header X-Request-ID")
