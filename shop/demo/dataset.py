"""The past of a shop, for demos: users who joined within a year and what they have ordered since, as rows for COPY.

Names, addresses and products are the factories'; what is here makes a million orders of them believable and quick.
There is one range of products, each with its price, some sold more than others. A user has two addresses. A few users
order a lot and most a little. An order's status goes with its age. Rows are put together from text that is encoded
once, and made in batches, so that neither the number of users nor that of orders takes memory.
"""

import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice
from typing import Any, NamedTuple, TypeVar

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory, source
from shop.domain.models import User
from shop.domain.orders import STATUSES

USER_COLUMNS = ("id", "name", "email", "email_key", "password_hash", "role", "created_at")
ORDER_COLUMNS = ("user_id", "id", "items", "total", "status", "shipping_address", "created_at")
# Orders, or users, made at a time.
BATCH = 5000
PRODUCTS = 500
# How many in a hundred orders have 1, 2, 3 … of a product, and 1, 2, 3 … products.
QUANTITIES = (70, 18, 6, 4, 2)
POSITIONS = (40, 25, 18, 11, 6)
# The share of the first address of a user's two.
HOME = 0.85
# Orders up to this age, and how many in a hundred are in each of STATUSES: pending, confirmed, shipped, delivered,
# cancelled.
STATUS_BY_AGE = (
    (timedelta(days=1), (12, 75, 9, 0, 4)),
    (timedelta(days=3), (2, 33, 54, 6, 5)),
    (timedelta(days=8), (0, 4, 40, 50, 6)),
    (timedelta.max, (0, 0, 0, 93, 7)),
)
# Users among whom the eager ones and the others come in a fixed proportion.
PATTERN = 100
# Positions that are drawn beforehand.
DRAWN = 20_000

T = TypeVar("T")


class Batch(NamedTuple):
    """Some rows of both tables, as text for COPY; users come first, since orders refer to them.

    Attributes:
        users: Rows with USER_COLUMNS.
        orders: Rows with ORDER_COLUMNS.
        user_count, order_count: How many there are.
    """

    users: bytes
    orders: bytes
    user_count: int
    order_count: int


class Account(NamedTuple):
    """An account to show the shop with."""

    email: str
    role: str
    orders: int


class Dataset:
    """What has happened in a shop: equal arguments give equal rows.

    The first user is among those with the most orders, and the second is staff.

    Args:
        users: How many there are, 1 or more.
        orders: How many they have placed among them.
        seed: What all values follow from.
        until: Everything happened in the year before.
        used: The highest number in an address of the factories that is taken already.
        password_hash: Everybody's.
    """

    def __init__(self, *, users: int, orders: int, seed: str, until: datetime, used: int, password_hash: str) -> None:
        self._users, self._orders = users, orders
        self._seed, self._until, self._used = seed, until, used
        self._password_hash = password_hash
        self._accounts: list[Account] = []

    @property
    def accounts(self) -> list[Account]:
        """The first three accounts; complete once the first of the batches that have them are made."""
        return self._accounts

    def batches(self) -> Iterator[Batch]:
        """Yield all rows, some `BATCH` at a time. The factories' source belongs to this iteration until it ends."""
        users: list[str] = []
        orders: list[str] = []
        for user_row, order_rows in self._histories():
            users.append(user_row)
            while added := list(islice(order_rows, BATCH)):
                orders += added
                if len(orders) >= BATCH:
                    yield _batch(users, orders)
            if len(users) >= BATCH:
                yield _batch(users, orders)
        if users or orders:
            yield _batch(users, orders)

    def _histories(self) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield the row of each user with the rows of the user's orders."""
        # One range of products, whatever is added later.
        source.reseed(f"{self._seed} products", latest=self._until)
        products = _Products()
        # Rows that are there already have ids made of the same seed; theirs began at another number.
        source.reseed(f"{self._seed} {self._used}", latest=self._until, used=self._used)
        shares = _Shares(self._users, self._orders)
        for index in range(self._users):
            user = UserFactory.build(*(["staff"] if index == 1 else []), password_hash=self._password_hash)
            count = shares.of(index)
            if index < 3:
                self._accounts.append(Account(user.email, user.role, count))
            yield _row(*(getattr(user, column) for column in USER_COLUMNS)), self._orders_of(user, count, products)

    def _orders_of(self, user: User, count: int, products: "_Products") -> Iterator[str]:
        if not count:
            return
        chance, id_at = source.random.random, source.id_text_at
        user_id, until = str(user.id), self._until.timestamp()
        since = until - user.created_at.timestamp()
        addresses = [_escaped(exactjson.dumps(OrderFactory.shipping_address()).decode()) for _ in range(2)]
        for _ in range(count):
            age = since * chance()
            moment = datetime.fromtimestamp(until - age, UTC)
            items, cents = products.some()
            status = _status(age)
            # As `_row` would write it; that is most of the work for an order.
            yield (
                f"{user_id}\t{id_at(moment)}\t{items}\t{cents // 100}.{cents % 100:02}\t{status}\t"
                f"{addresses[chance() > HOME]}\t{moment}\n"
            )


class _Products:
    """What the shop sells: each product has one name and one price."""

    def __init__(self) -> None:
        positions = []
        for number in range(1, PRODUCTS + 1):
            product = OrderFactory.item(productId=f"sku-{number:05}")
            for quantity in range(1, len(QUANTITIES) + 1):
                text = _escaped(exactjson.dumps(product | {"quantity": quantity}).decode())
                positions.append((text, int(product["price"] * 100) * quantity))
        # A product's sales fall with its rank, as they do in shops. Drawn beforehand, as often as it takes for a
        # uniform choice to be the right one: four times as quick as `random.choices`.
        weights = [often / (rank + 10) for rank in range(PRODUCTS) for often in QUANTITIES]
        self._positions = source.random.choices(positions, weights, k=DRAWN)

    def some(self) -> tuple[str, int]:
        """Return positions of an order as JSON text for COPY, and their total in cents."""
        chance, positions = source.random.random, self._positions
        count = _COUNTS[int(chance() * 100)]
        chosen = [positions[int(chance() * DRAWN)] for _ in range(count)]
        return f"[{','.join([text for text, _ in chosen])}]", sum([cents for _, cents in chosen])


class _Shares:
    """How many of all orders each user has placed: a few many, and most a few."""

    def __init__(self, users: int, orders: int) -> None:
        # Whole numbers, so that the shares come to the sum exactly; always the same ones.
        drawn = random.Random(PATTERN)  # noqa: S311 - not for secrets
        weights = [int(1000 * drawn.paretovariate(1.5)) for _ in range(PATTERN)]
        most = weights.index(max(weights))
        weights[0], weights[most] = weights[most], weights[0]
        self._before = [0, *accumulate(weights)]
        self._orders, self._whole = orders, self._weight_before(users)

    def of(self, index: int) -> int:
        """Return the share of a user, counted from 0."""
        first, behind = (self._weight_before(number) * self._orders // self._whole for number in (index, index + 1))
        return behind - first

    def _weight_before(self, index: int) -> int:
        patterns, rest = divmod(index, PATTERN)
        return patterns * self._before[-1] + self._before[rest]


def _batch(users: list[str], orders: list[str]) -> Batch:
    """Return what has been made, and begin anew."""
    batch = Batch("".join(users).encode(), "".join(orders).encode(), len(users), len(orders))
    users.clear()
    orders.clear()
    return batch


def _status(age: float) -> str:
    """Return the status of an order of so many seconds."""
    statuses = next(statuses for limit, statuses in _STATUSES if age <= limit)
    return statuses[int(source.random.random() * 100)]


def _row(*values: Any) -> str:
    return "\t".join(_escaped(str(value)) for value in values) + "\n"


def _escaped(text: str) -> str:
    r"""Return `text` as COPY reads it: a backslash, and what ends a value or a row, behind a backslash."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _hundred(values: Iterable[T], shares: Iterable[int]) -> list[T]:
    """Return each value as many times in a hundred as its share says."""
    return [value for value, share in zip(values, shares, strict=True) for _ in range(share)]


_COUNTS = _hundred(range(1, len(POSITIONS) + 1), POSITIONS)
_STATUSES = [(limit.total_seconds(), _hundred(STATUSES, shares)) for limit, shares in STATUS_BY_AGE]
