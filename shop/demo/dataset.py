"""The demo data set: users of the last year and their orders, as rows for COPY.

The factories make names, addresses and products. This module makes a million orders quickly, with realistic
proportions: some products sell more than others, a few users order a lot, and the status of an order depends on its
age. Items are encoded once, and rows are made in batches, so the memory does not grow with the data.
"""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory, source
from shop.domain.models import User
from shop.domain.orders import STATUSES

USER_COLUMNS = ("id", "name", "email", "email_key", "password_hash", "role", "created_at")
ORDER_COLUMNS = ("user_id", "id", "items", "total", "status", "shipping_address", "created_at")
# Rows of a batch.
BATCH = 5000
PRODUCTS = 500
# Percentages of line items with the quantity 1, 2, 3 …, and of orders with 1, 2, 3 … items.
QUANTITIES = (70, 18, 6, 4, 2)
ITEM_COUNTS = (40, 25, 18, 11, 6)
# The share of orders that go to the first of the two addresses of a user.
FIRST_ADDRESS_SHARE = 0.85
# For orders up to this age, the percentage of each of STATUSES: pending, confirmed, shipped, delivered, cancelled.
STATUS_BY_AGE = (
    (timedelta(days=1), (12, 75, 9, 0, 4)),
    (timedelta(days=3), (2, 33, 54, 6, 5)),
    (timedelta(days=8), (0, 4, 40, 50, 6)),
    (timedelta.max, (0, 0, 0, 93, 7)),
)
# A few users order a lot: the first `part` of the users has `part ** CONCENTRATION` of the orders.
CONCENTRATION = 0.6
# Line items that are drawn in advance.
DRAWN = 20_000

T = TypeVar("T")


class Batch(NamedTuple):
    """Rows of both tables as text for COPY. Insert the users first, because orders refer to them."""

    users: bytes
    orders: bytes
    user_count: int
    order_count: int


class Account(NamedTuple):
    """An account for logging in to the demo."""

    email: str
    role: str
    orders: int


class Dataset:
    """Makes the rows; equal arguments give equal rows.

    The first user has the most orders, and the second is staff.

    Args:
        users: The number of users, at least 1.
        orders: The number of orders of all users.
        until: The end of the year in which everything happened.
        used: The highest number that e-mail addresses of existing users have.
        password_hash: The password hash of all users.

    Attributes:
        accounts: The first three accounts; complete when the batches that contain them are made.
    """

    def __init__(self, *, users: int, orders: int, seed: str, until: datetime, used: int, password_hash: str) -> None:
        self._users, self._orders = users, orders
        self._seed, self._until, self._used = seed, until, used
        self._password_hash = password_hash
        self.accounts: list[Account] = []

    def batches(self) -> Iterator[Batch]:
        """Yield all rows in batches. Nothing else may use the factories' source until the iteration ends."""
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
        # All runs with this seed have the same products.
        source.reseed(f"{self._seed} products", latest=self._until)
        products = _Products()
        # A seed of its own for each run, so that ids do not repeat those of existing rows.
        source.reseed(f"{self._seed} {self._used}", latest=self._until, used=self._used)
        for index in range(self._users):
            user = UserFactory.build(*(["staff"] if index == 1 else []), password_hash=self._password_hash)
            count = self._orders_before(index + 1) - self._orders_before(index)
            if index < 3:
                self.accounts.append(Account(user.email, user.role, count))
            yield _row(*(getattr(user, column) for column in USER_COLUMNS)), self._orders_of(user, count, products)

    def _orders_before(self, index: int) -> int:
        """Return how many orders the users before this one have."""
        return round(self._orders * math.pow(index / self._users, CONCENTRATION))

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
            items, cents = products.order_items()
            status = _status(age)
            # Like `_row`, but faster: this is most of the work for an order.
            yield (
                f"{user_id}\t{id_at(moment)}\t{items}\t{cents // 100}.{cents % 100:02}\t{status}\t"
                f"{addresses[chance() > FIRST_ADDRESS_SHARE]}\t{moment}\n"
            )


class _Products:
    """The products of the shop; each has one name and one price."""

    def __init__(self) -> None:
        positions = []
        for number in range(1, PRODUCTS + 1):
            product = OrderFactory.item(productId=f"sku-{number:05}")
            for quantity in range(1, len(QUANTITIES) + 1):
                text = _escaped(exactjson.dumps(product | {"quantity": quantity}).decode())
                positions.append((text, int(product["price"] * 100) * quantity))
        # The sales of a product fall with its rank, as in real shops. The weighted choice is made in advance; then a
        # uniform choice is enough for each order, which is four times as fast as `random.choices`.
        weights = [often / (rank + 10) for rank in range(PRODUCTS) for often in QUANTITIES]
        self._positions = source.random.choices(positions, weights, k=DRAWN)

    def order_items(self) -> tuple[str, int]:
        """Return the items of an order as JSON text for COPY, and their total in cents."""
        chance, positions = source.random.random, self._positions
        count = _COUNTS[int(chance() * 100)]
        chosen = [positions[int(chance() * DRAWN)] for _ in range(count)]
        return f"[{','.join([text for text, _ in chosen])}]", sum([cents for _, cents in chosen])


def _batch(users: list[str], orders: list[str]) -> Batch:
    """Return the collected rows as a batch, and clear the lists."""
    batch = Batch("".join(users).encode(), "".join(orders).encode(), len(users), len(orders))
    users.clear()
    orders.clear()
    return batch


def _status(age: float) -> str:
    """Return a random status for an order of this age, in seconds."""
    statuses = next(statuses for limit, statuses in _STATUSES if age <= limit)
    return statuses[int(source.random.random() * 100)]


def _row(*values: Any) -> str:
    return "\t".join(_escaped(str(value)) for value in values) + "\n"


def _escaped(text: str) -> str:
    r"""Escape the characters of `text` that have a meaning for COPY."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _hundred(values: Iterable[T], shares: Iterable[int]) -> list[T]:
    """Return a list of a hundred values in which each has its share, in percent."""
    return [value for value, share in zip(values, shares, strict=True) for _ in range(share)]


_COUNTS = _hundred(range(1, len(ITEM_COUNTS) + 1), ITEM_COUNTS)
_STATUSES = [(limit.total_seconds(), _hundred(STATUSES, shares)) for limit, shares in STATUS_BY_AGE]
