"""Orders for exports, filtered and sorted by id. Ids are made in the order of placing, nearly."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from peewee import SQL, Expression

from shop.domain.models import Order
from shop.domain.orders import COLUMNS, PlacedOrder
from shop.storage.database import database

# Orders per FETCH.
BATCH = 2000


class Selection(NamedTuple):
    """A filter for orders: placed at `since` or later, and before `until`; None means no restriction."""

    since: datetime | None = None
    until: datetime | None = None
    status: str | None = None

    def conditions(self) -> list[Expression | SQL]:
        """Return the filter as conditions of a query."""
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
    """Run the block in a transaction without a statement timeout."""
    with database.atomic():
        database.execute_sql("SET LOCAL statement_timeout = 0")
        yield


def count(selection: Selection) -> int:
    """Return the number of selected orders."""
    counted: int = Order.select().where(*selection.conditions()).count()
    return counted


def batches(selection: Selection) -> Iterator[list[PlacedOrder]]:
    """Yield the selected orders in batches. Call it within `transaction`.

    A server-side cursor over an index keeps the memory constant, here and in PostgreSQL. All batches show the orders as
    they were when the first batch was fetched.
    """
    query, parameters = Order.select(*COLUMNS).where(*selection.conditions()).order_by(Order.id).sql()
    database.execute_sql(f"DECLARE export NO SCROLL CURSOR FOR {query}", parameters)
    while rows := database.execute_sql(f"FETCH {BATCH} FROM export").fetchall():
        yield [PlacedOrder._make(row) for row in rows]
    database.execute_sql("CLOSE export")
