"""Order events: what happened to an order, recorded by the same statement that changed it.

The events of an order are in the order's own row (an outbox): an order that is stored has its event, and a change that
was rolled back, lost a race or repeated an idempotency key has none. `shop.domain.webhooks` delivers them.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from peewee import SQL, Expression, fn

from shop import exactjson
from shop.domain.models import Order
from shop.ids import new_id
from shop.storage.statements import Slot

PLACED = "order.placed"
STATUS_CHANGED = "order.status_changed"
TYPES = (PLACED, STATUS_CHANGED)


class Event(NamedTuple):
    """An event of an order.

    Attributes:
        id: The same in the API and in each delivery.
        type: One of TYPES.
        time: When the order changed, RFC 3339.
        data: Facts about the order, by the API's names; numbers are as `exactjson.loads_stored` returns them.
    """

    id: str
    type: str
    time: str
    data: dict[str, Any]


def placed(*, status: str, total: Decimal, now: datetime) -> str:
    """Return the JSON text of the column `events` of a new order."""
    return f"[{_text(PLACED, now, {'status': status, 'total': exactjson.number(total)})}]"


def status_changed() -> Expression:
    """Return the SQL for the column `events` of an order whose status changes; its slot is `event`.

    Only the statement itself knows the status before it. Citus accepts no STABLE function of a column in an UPDATE,
    such as `jsonb_build_object`; these here are IMMUTABLE.
    """
    previous = Expression(Expression(SQL("'\"'"), "||", Order.status), "||", SQL("'\"'")).cast("jsonb")
    event = fn.jsonb_set(Slot("event", "jsonb"), SQL("'{data,previousStatus}'"), previous)
    return Expression(Order.events, "||", event)


def new_status(status: str, now: datetime) -> str:
    """Return the value for the slot of `status_changed`."""
    return _text(STATUS_CHANGED, now, {"status": status})


def stored(order_id: str, user_id: str, text: str) -> list[Event]:
    """Return the events of an order from the text of its column `events`.

    The ids of the order and its owner are not repeated in each event of the row.
    """
    whose = {"orderId": order_id, "userId": user_id}
    return [
        Event(event["id"], event["type"], event["time"], whose | event["data"])
        for event in exactjson.loads_stored(text)
    ]


def _text(type_: str, now: datetime, data: dict[str, object]) -> str:
    return exactjson.dumps({"id": new_id(), "type": type_, "time": exactjson.timestamp(now), "data": data}).decode()
