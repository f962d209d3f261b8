"""Orders for exports: all of them or some, in the order of their ids, which is nearly that of their placing."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from peewee import SQL, Expression

from shop.domain.models import Order
from shop.domain.orders import COLUMNS, PlacedOrder
from shop.storage.database import database

# Orders that are fetched at a time.
BATCH = 2000


class Selection(NamedTuple):
    """Which orders are exported; None does not restrict them.

    Attributes:
        since: Placed then or later.
        until: Placed before then.
        status: With this status.
    """

    since: datetime | None = None
    until: datetime | None = None
    status: str | None = None

    def conditions(self) -> list[Expression | SQL]:
        """Return the conditions on the rows."""
        # Peewee needs at least one.
        wanted: list[Expression | SQL] = [SQL("true")]
        if self.since is not None:
            wanted.append(Order.created_at >= self.since)
        if self.until is not None:
            wanted.append(Order.created_at < self.until)
        if self.status is not None:
            wanted.append(Order.status == self.status)
        return wanted


@contextmanager
def transaction() -> Iterator[None]:
    """Run the block in a transaction whose statements may take any time, unlike those of requests."""
    with database.atomic():
        database.execute_sql("SET LOCAL statement_timeout = 0")
        yield


def count(selection: Selection) -> int:
    """Return how many orders there are."""
    counted: int = Order.select().where(*selection.conditions()).count()
    return counted


def batches(selection: Selection) -> Iterator[list[PlacedOrder]]:
    """Yield the orders, `BATCH` at a time. Call it within `transaction`.

    A cursor on the server keeps the memory constant, both here and there: an index has the order of the ids. All
    batches show the orders as they were when the first was fetched.
    """
    query, parameters = Order.select(*COLUMNS).where(*selection.conditions()).order_by(Order.id).sql()
    database.execute_sql(f"DECLARE export NO SCROLL CURSOR FOR {query}", parameters)
    while rows := database.execute_sql(f"FETCH {BATCH} FROM export").fetchall():
        yield [PlacedOrder._make(row) for row in rows]
    database.execute_sql("CLOSE export")
