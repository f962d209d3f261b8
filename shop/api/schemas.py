"""The schemas of requests, as pydantic models: types, limits, and how values are normalized.

Types are strict: ``true`` is not 1 and ``"5"`` is not 5. As in JSON Schema, a number is an integer if its value is one,
however it is written (``2``, ``2.0``, ``1e3``). Names and e-mail addresses are trimmed and brought to Unicode normal
form C; passwords are not changed. The maximum length is checked before trimming, the minimum after.
"""

import re
import unicodedata
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, PydanticKnownError

from shop.domain.orders import CENT, STATUSES, Item
from shop.security import passwords

MAX_PAGE = 100
# The maximum length of an address at login, in characters: several times that of a valid one, because the client may
# send spaces around it and decomposed accents.
MAX_LOGIN_EMAIL = 1000
# WSGI joins repeated headers with a comma, so a key with a comma looks like two keys.
KEY = r"[\x21-\x2b\x2d-\x7e]{1,255}"
# PostgreSQL stores every character but NUL. The other two patterns are for the OpenAPI document only. They say what
# trimming implies: at least one or two characters that are not spaces.
NO_NUL = r"^[^\u0000]*$"
NOT_BLANK = r"^\s*[^\s\u0000][^\u0000]*$"
TWO_NOT_BLANK = r"^\s*[^\s\u0000][^\u0000]*[^\s\u0000]\s*$"
# Larger than any limit we enforce. The int of a Decimal with a huge exponent would fill the memory.
_HUGE = 10**12


def _fault(sentence: str) -> PydanticCustomError:
    # pydantic takes braces for placeholders, so `sentence` must not have any.
    return PydanticCustomError("shop", sentence)


def _composed(value: object) -> object:
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _address(text: str) -> str:
    # Imported on first use: its tables take a tenth of the time to import the service.
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415

    # We do not check delivery, so the domain may be unknown or reserved.
    try:
        return validate_email(text, check_deliverability=False, test_environment=True, strict=True).normalized
    except EmailNotValidError:
        raise _fault("must be a valid e-mail address") from None


def _replaced_if_too_long(value: object) -> object:
    # NFC of a mebibyte of accents takes minutes. The replacement is an address that no account has.
    return "longer than any address" if isinstance(value, str) and len(value) > MAX_LOGIN_EMAIL else value


def _address_if_valid(text: str) -> str:
    try:
        return _address(text)
    except PydanticCustomError:
        return text


def _number(value: object) -> Decimal:
    # Nearly all values are Decimals, and this check is quicker than isinstance.
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
    clamped = min(max(number, Decimal(-_HUGE)), Decimal(_HUGE))
    if clamped != clamped.to_integral_value():
        raise _fault("must be a whole number")
    return int(clamped)


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
    # abs turns -0 into 0, which would be shown differently.
    return abs(amount)


def _documented(**keywords: str) -> Any:
    """Add to the JSON Schema of a type what its validators require."""
    return Field(json_schema_extra=dict(keywords))


def _max_length(high: int) -> BeforeValidator:
    """Return a validator of the maximum length before trimming; `_text` checks the length after it."""

    def check(value: object) -> object:
        if isinstance(value, str) and len(value) > high:
            raise PydanticKnownError("string_too_long", {"max_length": high})
        return value

    return BeforeValidator(check)


_NFC = BeforeValidator(_composed)


def _text(low: int, high: int | None, *, strip: bool = False) -> StringConstraints:
    return StringConstraints(min_length=low, max_length=high, strip_whitespace=strip, pattern=NO_NUL)


# `_text` comes right after its type: after a validator, pydantic would apply the limits to anything with a length.
Name = Annotated[str, _text(2, 100, strip=True), _NFC, _max_length(100), _documented(pattern=TWO_NOT_BLANK)]
Email = Annotated[
    str,
    _text(1, 254, strip=True),
    _NFC,
    _max_length(254),
    AfterValidator(_address),
    _documented(pattern=NOT_BLANK, format="email"),
]
LoginEmail = Annotated[
    str,
    _text(1, None, strip=True),
    _NFC,
    AfterValidator(_address_if_valid),
    BeforeValidator(_replaced_if_too_long),
    _documented(pattern=NOT_BLANK),
]
Password = Annotated[str, _text(6, passwords.MAX_LENGTH)]
LoginPassword = Annotated[str, _text(1, None)]
UserId = Annotated[str, _text(1, None), _documented(format="uuid")]
ProductId = Annotated[str, _text(1, 100)]
ProductName = Annotated[str, _text(1, 200, strip=True), _max_length(200), _documented(pattern=NOT_BLANK)]
Quantity = Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_whole)]
Price = Annotated[
    Decimal,
    Field(ge=0, le=Decimal("99999.99")),
    BeforeValidator(_number),
    AfterValidator(_exact_to_the_cent),
    # Most JSON Schema validators compute multipleOf with floats, so it cannot express two decimals.
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 99999.99, "description": "at most two decimals"}),
]
Street = Annotated[str, _text(1, 200, strip=True), _max_length(200), _documented(pattern=NOT_BLANK)]
AddressPart = Annotated[str, _text(0, 200)]
Status = Annotated[str, AfterValidator(_status), WithJsonSchema({"type": "string", "enum": list(STATUSES)})]
IdempotencyKey = Annotated[str, AfterValidator(_key), WithJsonSchema({"type": "string", "pattern": f"^{KEY}$"})]
_ONCE = BeforeValidator(_once)


class RequestModel(BaseModel):
    """The body, query or headers of a request: camelCase in JSON, snake_case in Python, no unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, frozen=True, hide_input_in_errors=True
    )


class Registration(RequestModel):
    """A new user."""

    name: Name = Field(examples=["Ada Lovelace"])
    email: Email = Field(examples=["ada@example.com"])
    password: Password = Field(repr=False, examples=["analytical engine"])


class Login(RequestModel):
    """E-mail address and password. Values that no account can have get a 401, not a 400."""

    email: LoginEmail = Field(examples=["ada@example.com"])
    password: LoginPassword = Field(repr=False, examples=["analytical engine"])


class LineItem(RequestModel):
    """One line item of an order, in requests and in responses."""

    product_id: ProductId = Field(examples=["tea-1"])
    name: ProductName = Field(examples=["Tea"])
    price: Price = Field(examples=[29.99])
    quantity: Quantity = Field(examples=[2])

    def as_item(self) -> Item:
        """Return the line item as the domain has it."""
        return Item(self.product_id, self.name, self.price, self.quantity)


class NewShippingAddress(RequestModel):
    """The shipping address of a new order. Optional fields that the client does not send are not stored."""

    street: Street = Field(examples=["1 Main St"])
    city: AddressPart | None = Field(None, examples=["London"])
    state: AddressPart | None = Field(None, examples=["Greater London"])
    zip_code: AddressPart | None = Field(None, examples=["N1 9GU"])
    country: AddressPart | None = Field(None, examples=["GB"])

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that the client sent, under their JSON names."""
        return self.model_dump(by_alias=True, exclude_none=True)


class NewOrder(RequestModel):
    """A new order. Its total is the sum of price times quantity, and at most 99999999.99."""

    user_id: UserId = Field(
        description="your own id, as registration and login return it",
        examples=["01994f8e-54a2-7b30-a4c8-4c6b1d0e7f21"],
    )
    items: Annotated[list[LineItem], Field(min_length=1, max_length=100)]
    shipping_address: NewShippingAddress


class OrderHeaders(RequestModel):
    """Headers of ``POST /orders``."""

    idempotency_key: IdempotencyKey | None = Field(
        None,
        alias="Idempotency-Key",
        description="a unique name such as a UUID; a repeated request with the same key places no second order",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    )


class HistoryQuery(RequestModel):
    """Query of ``GET /users/{user_id}/orders``."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE), BeforeValidator(_page_size), _ONCE] = Field(
        20, description="the maximum number of orders on a page", examples=[20]
    )
    cursor: Annotated[str, _ONCE] | None = Field(
        None,
        description="`nextCursor` of the previous page; valid only for the same user and the same `status`",
        examples=["AAY9…"],
    )
    status: Annotated[Status, _ONCE] | None = Field(
        None, description="only orders of this status", examples=["shipped"]
    )


class StatusChange(RequestModel):
    """The new status of an order."""

    status: Status = Field(examples=["cancelled"])


def field_names(schema: type[BaseModel]) -> tuple[str, ...]:
    """Return the JSON names of a schema's fields, in order."""
    return tuple(field.alias or name for name, field in schema.model_fields.items())
