"""The shapes of requests, as pydantic models: types, limits, and what is normalized on the way in.

Types are strict: ``true`` is not 1 and ``"5"`` is not 5. A number is an integer when its value is one, however it is
written (``2``, ``2.0``, ``1e3``), as JSON Schema has it. Names and e-mail addresses are trimmed and brought to Unicode
normal form C; passwords are taken as they are. What a limit of JSON Schema says of a string holds for what was sent.
"""

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError

from shop.domain.orders import CENT, STATUSES, Item
from shop.security import passwords

MAX_PAGE = 100
# At log-in, in characters: several times as many as an address has, for spaces around it and accents taken apart.
LONGEST_ADDRESS_SENT = 1000
# WSGI joins a header that was sent twice with a comma, so that a comma cannot be told from a second header.
KEY = r"[\x21-\x2b\x2d-\x7e]{1,255}"
# PostgreSQL stores every character but NUL. What trimming asks for beyond that, as the description says it: one or two
# that are no space.
NO_NUL = r"^[^\u0000]*$"
NOT_BLANK = r"^\s*[^\s\u0000][^\u0000]*$"
TWO_NOT_BLANK = r"^\s*[^\s\u0000][^\u0000]*[^\s\u0000]\s*$"
# Beyond this no limit of ours lies, and an int of a Decimal with a huge exponent would fill the memory.
_FAR = 10**12


def _fault(sentence: str) -> PydanticCustomError:
    # Braces would be taken for placeholders; no sentence of ours has any.
    return PydanticCustomError("shop", sentence)


def _composed(value: object) -> object:
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _address(text: str) -> str:
    # Imported at the first address: its tables take a tenth of what importing the service takes.
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415

    # Whether a domain exists or is reserved is a matter of delivery, and delivery is not checked.
    try:
        return validate_email(text, check_deliverability=False, test_environment=True, strict=True).normalized
    except EmailNotValidError:
        raise _fault("must be a valid e-mail address") from None


def _nobodys_if_too_long(value: object) -> object:
    # Before anything looks at it: putting a mebibyte of accents in order (NFC) takes minutes.
    return "longer than any address" if isinstance(value, str) and len(value) > LONGEST_ADDRESS_SENT else value


def _address_if_valid(text: str) -> str:
    try:
        return _address(text)
    except PydanticCustomError:
        return text


def _number(value: object) -> Decimal:
    # Exact types first, here and below: nearly all values have them, and they are told sooner.
    if type(value) is Decimal:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    raise _fault("must be a number")


def _whole(value: object) -> int:
    if type(value) is int:
        return value
    try:
        number = _number(value)
    except PydanticCustomError:
        raise _fault("must be a whole number") from None
    near = min(max(number, Decimal(-_FAR)), Decimal(_FAR))
    if near != near.to_integral_value():
        raise _fault("must be a whole number")
    return int(near)


def _once(value: object) -> object:
    if isinstance(value, list):
        raise _fault("must be given once")
    return value


def _page_size(value: object) -> object:
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= MAX_PAGE:
            raise _fault(f"must be a whole number from 1 to {MAX_PAGE}")
        return int(value)
    return value


def _status(value: str) -> str:
    if value not in STATUSES:
        raise _fault(f"must be one of {', '.join(STATUSES)}")
    return value


def _key(value: str) -> str:
    if not re.fullmatch(KEY, value):
        raise _fault("must be sent once and have 1 to 255 visible ASCII characters other than the comma")
    return value


def _exact_to_the_cent(amount: Decimal) -> Decimal:
    if amount != amount.quantize(CENT):
        raise _fault("must have at most two decimals")
    # Of the zeros the negative one is shown as another.
    return abs(amount)


@dataclass(frozen=True)
class _As:
    """Adds to the description of a type what its validators ask for."""

    pattern: str
    format: str | None = None

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"pattern": self.pattern} | ({"format": self.format} if self.format else {})


def _within(high: int) -> BeforeValidator:
    """Limit a text as it was sent: the limit behind it sees what trimming has left."""

    def check(value: object) -> object:
        if isinstance(value, str) and len(value) > high:
            raise PydanticKnownError("string_too_long", {"max_length": high})
        return value

    return BeforeValidator(check)


_NFC = BeforeValidator(_composed)


def _text(low: int, high: int | None, *, strip: bool = False) -> StringConstraints:
    return StringConstraints(min_length=low, max_length=high, strip_whitespace=strip, pattern=NO_NUL)


# A limit follows its type at once: behind a validator pydantic would apply it to anything with a length.
Name = Annotated[str, _text(2, 100, strip=True), _NFC, _within(100), _As(TWO_NOT_BLANK)]
Email = Annotated[str, _text(1, 254, strip=True), _NFC, _within(254), AfterValidator(_address), _As(NOT_BLANK, "email")]
LoginEmail = Annotated[
    str,
    _text(1, None, strip=True),
    _NFC,
    AfterValidator(_address_if_valid),
    BeforeValidator(_nobodys_if_too_long),
    _As(NOT_BLANK),
]
Password = Annotated[str, _text(6, passwords.MAX_LENGTH), _As(NO_NUL)]
LoginPassword = Annotated[str, _text(1, None), _As(NO_NUL)]
UserId = Annotated[str, _text(1, None), _As(NO_NUL, "uuid")]
ProductId = Annotated[str, _text(1, 100), _As(NO_NUL)]
ProductName = Annotated[str, _text(1, 200, strip=True), _within(200), _As(NOT_BLANK)]
Quantity = Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_whole)]
Price = Annotated[
    Decimal,
    Field(ge=0, le=Decimal("99999.99")),
    BeforeValidator(_number),
    AfterValidator(_exact_to_the_cent),
    # Two decimals cannot be said in JSON Schema: multipleOf is a matter of floats to most validators.
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 99999.99, "description": "at most two decimals"}),
]
Street = Annotated[str, _text(1, 200, strip=True), _within(200), _As(NOT_BLANK)]
AddressPart = Annotated[str, _text(0, 200), _As(NO_NUL)]
Status = Annotated[str, AfterValidator(_status), WithJsonSchema({"type": "string", "enum": list(STATUSES)})]
IdempotencyKey = Annotated[str, AfterValidator(_key), WithJsonSchema({"type": "string", "pattern": f"^{KEY}$"})]
_ONCE = BeforeValidator(_once)


class Part(BaseModel):
    """A part of a request, camelCase outside and snake_case inside. Unknown fields are rejected, not ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, frozen=True, hide_input_in_errors=True
    )


class Registration(Part):
    """A new user."""

    name: Name = Field(examples=["Ada Lovelace"])
    email: Email = Field(examples=["ada@example.com"])
    password: Password = Field(repr=False, examples=["analytical engine"])


class Login(Part):
    """E-mail address and password. Values that could not be registered are no error here: no account has them."""

    email: LoginEmail = Field(examples=["ada@example.com"])
    password: LoginPassword = Field(repr=False, examples=["analytical engine"])


class OrderItem(Part):
    """One item of an order."""

    product_id: ProductId = Field(examples=["tea-1"])
    name: ProductName = Field(examples=["Tea"])
    price: Price = Field(examples=[29.99])
    quantity: Quantity = Field(examples=[2])

    def as_item(self) -> Item:
        """Return what `shop.domain.orders.place` takes."""
        return Item(self.product_id, self.name, self.price, self.quantity)


class ShippingAddress(Part):
    """A shipping address. Optional parts that the client does not send are not stored."""

    street: Street = Field(examples=["1 Main St"])
    city: AddressPart | None = Field(None, examples=["London"])
    state: AddressPart | None = Field(None, examples=["Greater London"])
    zip_code: AddressPart | None = Field(None, examples=["N1 9GU"])
    country: AddressPart | None = Field(None, examples=["GB"])

    def as_dict(self) -> dict[str, Any]:
        """Return the parts that were given, by their outside names."""
        return self.model_dump(by_alias=True, exclude_none=True)


class NewOrder(Part):
    """A new order. Its total is the sum of price times quantity, and at most 99999999.99."""

    user_id: UserId = Field(
        description="your own id, as registration and login return it",
        examples=["01994f8e-54a2-7b30-a4c8-4c6b1d0e7f21"],
    )
    items: Annotated[list[OrderItem], Field(min_length=1, max_length=100)]
    shipping_address: ShippingAddress


class OrderHeaders(Part):
    """Headers of ``POST /orders``."""

    idempotency_key: IdempotencyKey | None = Field(
        None, alias="Idempotency-Key", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"]
    )


class HistoryQuery(Part):
    """Query of ``GET /users/{user_id}/orders``."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE), BeforeValidator(_page_size), _ONCE] = Field(20, examples=[20])
    cursor: Annotated[str, _ONCE] | None = Field(None, examples=["AAY9…"])
    status: Annotated[Status, _ONCE] | None = Field(None, examples=["shipped"])


class StatusChange(Part):
    """The new status of an order."""

    status: Status = Field(examples=["cancelled"])
