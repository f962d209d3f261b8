"""The formats of an export: CSV for spreadsheets, and JSON Lines (https://jsonlines.org) for programs."""

import csv
import io
from collections.abc import Callable, Sequence

from shop import exactjson
from shop.api import responses
from shop.domain.orders import PlacedOrder

ADDRESS = ("street", "city", "state", "zipCode", "country")
HEADER = ("id", "userId", "createdAt", "status", "total", *ADDRESS, "items")
# A spreadsheet takes a cell that begins like this for a formula. The last ones are full-width forms.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
Format = Callable[[Sequence[PlacedOrder], bool], bytes]


def csv_rows(orders: Sequence[PlacedOrder], is_first: bool) -> bytes:
    """Return orders as CSV (RFC 4180), one row each, after a header if they come first; the column `items` has JSON."""
    text = io.StringIO()
    writer = csv.writer(text)
    if is_first:
        writer.writerow(HEADER)
    for order in orders:
        address = exactjson.loads_stored(order.shipping_address)
        parts = [address.get(field, "") for field in ADDRESS]
        time = exactjson.dumps(exactjson.timestamp(order.created_at)).decode().strip('"')
        cells = (order.id, order.user_id, time, order.status, str(order.total), *parts, order.items)
        writer.writerow(map(_cell, cells))
    return text.getvalue().encode()


def json_lines(orders: Sequence[PlacedOrder], _is_first: bool) -> bytes:
    """Return orders as JSON Lines, each as `GET /orders/{id}` shows it, without its owner's name and address."""
    return b"".join(exactjson.dumps(responses.order(order)) + b"\n" for order in orders)


def _cell(text: str) -> str:
    """Return a cell that no spreadsheet executes: an apostrophe marks it as text."""
    return f"'{text}" if text.startswith(FORMULA) else text


FORMATS: dict[str, Format] = {"csv": csv_rows, "jsonl": json_lines}
