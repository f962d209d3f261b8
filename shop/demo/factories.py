"""Factories of realistic users and orders, for the tests and the demo data (extra ``demo``).

All values come from one seed, so a run can be repeated exactly. A counter makes e-mail addresses unique, and ids sort
by creation time like those of the service. `build` returns a model instance, `create` also inserts it, and `body`
returns the request body with which a client would create it.

    UserFactory.create("staff", name="Ada Lovelace")
    OrderFactory.create("shipped", user=ada)
    OrderFactory.create_batch(5, "large", user=ada)
"""

import random
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, partial
from typing import Any, ClassVar, Generic, TypeVar

from mimesis import Address, Food, Locale, Person
from peewee import Model

from shop.domain.models import Order, User
from shop.domain.orders import STATUSES
from shop.ids import email_key
from shop.security.passwords import Passwords

# The password of all users in tests and demos. It is public.
PASSWORD = "correct horse battery staple"  # noqa: S105
LATEST = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
# Rows of one INSERT; more are not faster.
ROWS_AT_ONCE = 1000

M = TypeVar("M", bound=Model)
Values = dict[str, Any]


class Source:
    """The random values of the factories: equal seeds give equal values in equal order."""

    def __init__(self) -> None:
        self.person = Person(Locale.EN)
        self.address = Address(Locale.EN)
        self.food = Food(Locale.EN)
        self.reseed("0")

    def reseed(self, seed: str, *, latest: datetime = LATEST, used: int = 0) -> None:
        """Start again with `seed`; `latest` ends the year of all times, and numbers start after `used`."""
        # Not for secrets: it has to be repeatable.
        self.random = random.Random(seed)  # noqa: S311
        for provider in (self.person, self.address, self.food):
            provider.reseed(seed)
        self.latest = latest
        self._count = used

    def number(self) -> int:
        """Return the next number: 1, then 2, and so on."""
        self._count += 1
        return self._count

    def moment(self) -> datetime:
        """Return a time within the year before `latest`."""
        return self.latest - self.random.random() * YEAR

    def id_at(self, moment: datetime) -> uuid.UUID:
        """Return a UUID of version 7 (RFC 9562, section 5.7) as if made at `moment`."""
        return uuid.UUID(self.id_text_at(moment))

    def id_text_at(self, moment: datetime) -> str:
        """Return the same as `id_at`, as text, which is several times as fast."""
        time = f"{int(moment.timestamp() * 1000):012x}"
        chance = f"{self.random.getrandbits(74):019x}"
        variant = "89ab"[int(chance[0], 16) & 3]
        return f"{time[:8]}-{time[8:]}-7{chance[1:4]}-{variant}{chance[4:7]}-{chance[7:]}"

    def product(self) -> str:
        """Return the name of a product of a grocer."""
        kinds = (self.food.fruit, self.food.vegetable, self.food.drink, self.food.spices)
        return self.random.choice(kinds)()

    def price(self) -> Decimal:
        """Return an amount of money from 0.50 to 99.99."""
        return Decimal(self.random.randint(50, 9999)).scaleb(-2)


source = Source()


class Factory(Generic[M]):
    """Makes instances of one model.

    A trait is a named set of values. It overrides the defaults and earlier traits; the caller's values override it.
    """

    model: ClassVar[type[Model]]
    traits: ClassVar[Mapping[str, Callable[[], Values]]] = {}

    @classmethod
    def defaults(cls) -> Values:
        """Return a value for every column that needs one."""
        raise NotImplementedError

    @classmethod
    def build(cls, *traits: str, **overrides: Any) -> M:
        """Return an instance that is not in the database.

        Raises:
            ValueError: There is no such trait.
            TypeError: The model has no such column.
        """
        unknown = set(traits) - set(cls.traits)
        if unknown:
            raise ValueError(f"{cls.__name__} has no trait {sorted(unknown)}; it has {sorted(cls.traits)}")
        values = cls.defaults()
        # Peewee sets any attribute, so a typo such as `emial=` would have no effect.
        unknown = set(overrides) - values.keys() - cls.model._meta.fields.keys()
        if unknown:
            raise TypeError(f"{cls.__name__} has no value {sorted(unknown)}; it has {sorted(cls.model._meta.fields)}")
        for trait in traits:
            values |= cls.traits[trait]()
        return cls._instance(values | overrides)

    @classmethod
    def create(cls, *traits: str, **overrides: Any) -> M:
        """Return an instance that is in the database; arguments and errors as for `build`."""
        return cls.create_batch(1, *traits, **overrides)[0]

    @classmethod
    def create_batch(cls, count: int, *traits: str, **overrides: Any) -> list[M]:
        """Insert `count` instances in one transaction, and return them."""
        instances = [cls.build(*traits, **overrides) for _ in range(count)]
        with cls.model._meta.database.atomic() if count > ROWS_AT_ONCE else nullcontext():
            cls.model.bulk_create(instances, ROWS_AT_ONCE)
        return instances

    @classmethod
    def _instance(cls, values: Values) -> M:
        instance: M = cls.model(**values)  # type: ignore[assignment]
        return instance


class UserFactory(Factory[User]):
    """Users, each with an attribute `password` for logging in."""

    model = User
    traits: ClassVar[Mapping[str, Callable[[], Values]]] = {"staff": lambda: {"role": "staff"}}

    @classmethod
    def defaults(cls) -> Values:
        """Return a customer's values."""
        moment = source.moment()
        return {"id": source.id_at(moment), "role": "customer", "created_at": moment, **cls.body()}

    @classmethod
    def body(cls, **overrides: Any) -> Values:
        """Return a body for ``POST /users``."""
        name = source.person.full_name()
        email = f"{'.'.join(re.findall('[a-z]+', name.lower()))}.{source.number()}@example.com"
        return {"name": name, "email": email, "password": PASSWORD} | overrides

    @classmethod
    def _instance(cls, values: Values) -> User:
        password = values.pop("password")
        values.setdefault("email_key", email_key(values["email"]))
        user = super()._instance({"password_hash": _quick_hash(password), **values})
        # Not a column; tests log in with it.
        user.password = password  # type: ignore[attr-defined]
        return user


class OrderFactory(Factory[Order]):
    """Orders. Without `user`, `create` creates a new user, and `build` builds one."""

    model = Order
    traits: ClassVar[Mapping[str, Callable[[], Values]]] = {
        **{status: partial(dict, status=status) for status in STATUSES},
        "large": lambda: {"items": OrderFactory.items(100)},
    }

    @classmethod
    def defaults(cls) -> Values:
        """Return the values of a confirmed order of one to five items."""
        moment = source.moment()
        return {
            "id": source.id_at(moment),
            "items": cls.items(source.random.randint(1, 5)),
            "status": "confirmed",
            "shipping_address": cls.shipping_address(),
            "created_at": moment,
        }

    @classmethod
    def body(cls, user: User, **overrides: Any) -> Values:
        """Return a body for ``POST /orders`` by `user`."""
        return {
            "userId": str(user.id),
            "items": cls.items(source.random.randint(1, 5)),
            "shippingAddress": cls.shipping_address(),
        } | overrides

    @classmethod
    def items(cls, count: int) -> list[Values]:
        """Return `count` line items."""
        return [cls.item() for _ in range(count)]

    @classmethod
    def item(cls, **overrides: Any) -> Values:
        """Return a line item, as in the API."""
        return {
            "productId": f"sku-{source.random.randint(1, 99999):05}",
            "name": source.product(),
            "price": source.price(),
            "quantity": source.random.randint(1, 5),
        } | overrides

    @classmethod
    def shipping_address(cls) -> Values:
        """Return an address, as in the API."""
        return {
            "street": source.address.address(),
            "city": source.address.city(),
            "state": source.address.state(),
            "zipCode": source.address.zip_code(),
            "country": "US",
        }

    @classmethod
    def create_batch(cls, count: int, *traits: str, **overrides: Any) -> list[Order]:
        """Return `count` orders, all of one user."""
        if "user" not in overrides:
            overrides["user"] = UserFactory.create()
        return super().create_batch(count, *traits, **overrides)

    @classmethod
    def _instance(cls, values: Values) -> Order:
        total = sum(item["price"] * item["quantity"] for item in values["items"])
        return super()._instance({"total": total, "user": values.get("user") or UserFactory.build(), **values})


@cache
def _quick_hash(password: str) -> str:
    """Hash with the cheapest parameters; the service replaces the hash at the first login."""
    return Passwords(time_cost=1, memory_cost=8, parallelism=1, slots=1).hash(password)
