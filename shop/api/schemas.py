"""The shapes of request bodies, as pydantic models: types, limits, and what is normalized on the way in.

Types are strict: ``true`` is not 1 and ``"5"`` is not 5. A number is an integer when its value is one, however it is
written (``2``, ``2.0``, ``1e3``), as JSON Schema has it. Names and e-mail addresses are trimmed and brought to Unicode
normal form C; passwords are taken as they are.
"""

import unicodedata
from decimal import Decimal
from typing import Annotated, Any

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from shop.orders import CENT, Item

# Beyond this no limit of ours lies, and an int of a Decimal with a huge exponent would fill the memory.
_FAR = 10**12


def _fault(sentence: str) -> PydanticCustomError:
    # Braces would be taken for placeholders; no sentence of ours has any.
    return PydanticCustomError("shop", sentence)


def _composed(value: object) -> object:
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _storable(text: str) -> str:
    """PostgreSQL stores every character but NUL."""
    if "\0" in text:
        raise _fault("must not contain the character NUL")
    return text


def _address(text: str) -> str:
    # Whether a domain exists or is reserved is a matter of delivery, and delivery is not checked.
    try:
        return validate_email(text, check_deliverability=False, test_environment=True, strict=True).normalized
    except EmailNotValidError:
        raise _fault("must be a valid e-mail address") from None


def _address_if_valid(text: str) -> str:
    try:
        return _address(text)
    except PydanticCustomError:
        return text


def _number(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    raise _fault("must be a number")


def _whole(value: object) -> int:
    try:
        number = _number(value)
    except PydanticCustomError:
        raise _fault("must be a whole number") from None
    near = min(max(number, Decimal(-_FAR)), Decimal(_FAR))
    if near != near.to_integral_value():
        raise _fault("must be a whole number")
    return int(near)


def _exact_to_the_cent(amount: Decimal) -> Decimal:
    if amount != amount.quantize(CENT):
        raise _fault("must have at most two decimals")
    return amount


_NFC = BeforeValidator(_composed)
_STORABLE = AfterValidator(_storable)


def _text(low: int, high: int | None, *, strip: bool = False) -> StringConstraints:
    return StringConstraints(min_length=low, max_length=high, strip_whitespace=strip)


# A limit follows its type at once: behind a validator pydantic would apply it to anything with a length.
Name = Annotated[str, _text(2, 100, strip=True), _NFC, _STORABLE]
Email = Annotated[str, _text(1, 254, strip=True), _NFC, _STORABLE, AfterValidator(_address)]
LoginEmail = Annotated[str, _text(1, None, strip=True), _NFC, _STORABLE, AfterValidator(_address_if_valid)]
Password = Annotated[str, _text(6, 255), _STORABLE]
LoginPassword = Annotated[str, _text(1, None), _STORABLE]
UserId = Annotated[str, _text(1, None), _STORABLE]
ProductId = Annotated[str, _text(1, 100), _STORABLE]
ProductName = Annotated[str, _text(1, 200, strip=True), _STORABLE]
Quantity = Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_whole)]
Price = Annotated[
    Decimal, Field(ge=0, le=Decimal("99999.99")), BeforeValidator(_number), AfterValidator(_exact_to_the_cent)
]
Street = Annotated[str, _text(1, 200, strip=True), _STORABLE]
AddressPart = Annotated[str, _text(0, 200), _STORABLE]


class Body(BaseModel):
    """A request body: camelCase outside, snake_case inside; unknown fields are refused, not dropped."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, frozen=True, hide_input_in_errors=True
    )


class Registration(Body):
    """``POST /users``."""

    name: Name
    email: Email
    password: Password = Field(repr=False)


class Login(Body):
    """``POST /users/login``. What could not have been registered is no fault here: no account has it."""

    email: LoginEmail
    password: LoginPassword = Field(repr=False)


class OrderItem(Body):
    """One position of an order."""

    product_id: ProductId
    name: ProductName
    price: Price
    quantity: Quantity

    def as_item(self) -> Item:
        """Return what `shop.orders.place` takes."""
        return Item(self.product_id, self.name, self.price, self.quantity)


class ShippingAddress(Body):
    """Where an order goes. Optional parts are left out of what is stored when they are not given."""

    street: Street
    city: AddressPart | None = None
    state: AddressPart | None = None
    zip_code: AddressPart | None = None
    country: AddressPart | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the parts that were given, by their outside names."""
        return self.model_dump(by_alias=True, exclude_none=True)


class NewOrder(Body):
    """``POST /orders``."""

    user_id: UserId
    items: Annotated[list[OrderItem], Field(min_length=1, max_length=100)]
    shipping_address: ShippingAddress
