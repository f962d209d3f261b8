"""Deliveries: from the outbox in each order's row to the endpoints, each event at least once and in order.

`take` moves events from an order's row into rows of `webhook_deliveries`, one for each endpoint. `due` finds those to
send now, `claim` reserves one for a while, and `delivered`, `retry` or `give_up` record the outcome in a transaction of
their own. If a deliverer dies in between, its claim expires and another one sends the event again.

A delivery is due only while no earlier one of the same order and endpoint is pending. So events of an order stay in
order, however many deliverers run. `due_at` alone says when to look at a delivery again; it never decides the order.

On Citus, `take`, `claim` and the outcomes touch one row, or rows of one order, on one node. `orders_to_take`, `due` and
`oldest_undelivered` ask all nodes, without locks.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from peewee import SQL, Expression, fn

from shop import exactjson
from shop.domain import events
from shop.domain.events import Event
from shop.domain.models import Order, WebhookDelivery, slots
from shop.domain.webhooks import Endpoint
from shop.storage.database import database
from shop.storage.statements import Slot, Statement


class Due(NamedTuple):
    """A delivery that may be claimed."""

    user_id: str
    order_id: str
    endpoint_id: str
    position: int
    due_at: datetime


class Claim(NamedTuple):
    """A delivery that is reserved for one deliverer.

    Attributes:
        until: When others may send it too.
        attempts: How often it was claimed, this time included.
    """

    due: Due
    until: datetime
    attempts: int
    event: Event


_D = WebhookDelivery
_PENDING = _D.status == SQL("'pending'")
_ORDER_OF = (_D.user_id == Slot("user_id"), _D.order_id == Slot("order_id"), _D.endpoint == Slot("endpoint_id"))
_KEY = (*_ORDER_OF, _D.position == Slot("position"))
# A deliverer whose claim has expired must not undo what another one has recorded.
_CLAIMED = (*_KEY, _PENDING, _D.due_at == Slot("until"))

_TO_TAKE = Statement(
    Order.select(Order.user, Order.id, Order.untaken_since)
    .where(Order.untaken_since.is_null(False))
    .order_by(Order.untaken_since)
    .limit(Slot("limit"))
)
_OWN = (Order.user == Slot("user_id"), Order.id == Slot("id"))
# Two deliverers at once take different orders, instead of waiting for each other.
_LOCK = Statement(
    Order.select(Order.id, Order.user, Order.events.cast("text"), Order.events_taken)
    .where(*_OWN, Order.untaken_since.is_null(False))
    .for_update(skip_locked=True)
)
_ADD = Statement(
    _D.insert(
        slots(_D, "user_id", "order_id", "endpoint_id", "position", "event_id", "event", "occurred_at", "due_at")
        | {_D.status: SQL("'pending'"), _D.attempts: SQL("0")}
    )
)
_TAKEN = Statement(Order.update({Order.events_taken: Slot("taken"), Order.untaken_since: SQL("NULL")}).where(*_OWN))
_EARLIER = _D.alias()
_IS_FIRST: Expression = ~fn.EXISTS(
    _EARLIER.select(SQL("1")).where(
        _EARLIER.user_id == _D.user_id,
        _EARLIER.order_id == _D.order_id,
        _EARLIER.endpoint == _D.endpoint,
        _EARLIER.position < _D.position,
        _EARLIER.status == SQL("'pending'"),
    )
)
_DUE = Statement(
    _D.select(_D.user_id, _D.order_id, _D.endpoint, _D.position, _D.due_at)
    .where(_D.endpoint == Slot("endpoint_id"), _PENDING, _D.due_at <= Slot("now"), _IS_FIRST)
    .order_by(_D.due_at)
    .limit(Slot("limit"))
)
_CLAIM = Statement(
    _D.update({_D.due_at: Slot("until"), _D.attempts: _D.attempts + SQL("1")})
    .where(*_KEY, _PENDING, _D.due_at == Slot("due_at"))
    .returning(_D.attempts, _D.event.cast("text"))
)
_DELETE = Statement(_D.delete().where(*_KEY))
_RETRY = Statement(_D.update({_D.due_at: Slot("next_at")}).where(*_CLAIMED).returning(_D.position))
_GIVE_UP = Statement(_D.update({_D.status: SQL("'failed'")}).where(*_CLAIMED))
# Later events of the order wait as well. Otherwise each look at what is due would pass over them again.
_POSTPONE = Statement(
    _D.update({_D.due_at: fn.GREATEST(_D.due_at, Slot("next_at", "timestamptz"))}).where(*_ORDER_OF, _PENDING)
)
_WAKE = Statement(_D.update({_D.due_at: Slot("now")}).where(*_ORDER_OF, _PENDING))
_OLDEST_PENDING = Statement(_D.select(_D.occurred_at).where(_PENDING).order_by(_D.occurred_at).limit(SQL("1")))


def orders_to_take(limit: int) -> list[tuple[str, str]]:
    """Return owner and id of orders with events to take, those that wait longest first."""
    return [(user_id, order_id) for user_id, order_id, _ in database.rows(_TO_TAKE, limit=limit)]


def take(user_id: str, order_id: str, endpoints: Sequence[Endpoint], *, now: datetime) -> None:
    """Make a delivery of each new event of an order for each endpoint that wants it."""
    with database.atomic():
        row = database.row(_LOCK, user_id=user_id, id=order_id)
        if row is None:
            return  # Another deliverer was faster.
        *order, taken = row
        recorded = events.stored(*order)
        for position, event in list(enumerate(recorded))[taken:]:
            occurred_at = datetime.fromisoformat(event.time)
            for endpoint in endpoints:
                if endpoint.wants(event.type, occurred_at):
                    database.rows(
                        _ADD,
                        user_id=user_id,
                        order_id=order_id,
                        endpoint_id=endpoint.id,
                        position=position,
                        event_id=event.id,
                        event=_event_json(event),
                        occurred_at=occurred_at,
                        due_at=now,
                    )
        database.rows(_TAKEN, user_id=user_id, id=order_id, taken=len(recorded))


def due(endpoint_id: str, *, now: datetime, limit: int) -> list[Due]:
    """Return deliveries to an endpoint that may be claimed."""
    return [Due._make(row) for row in database.rows(_DUE, endpoint_id=endpoint_id, now=now, limit=limit)]


def claim(found: Due, *, until: datetime) -> Claim | None:
    """Reserve a delivery until a moment; None if another deliverer was faster."""
    row = database.row(_CLAIM, **found._asdict(), until=until)
    if row is None:
        return None
    attempts, text = row
    return Claim(found, until, attempts, Event(**exactjson.loads_stored(text)))


def delivered(claimed: Claim, *, now: datetime) -> None:
    """Record that the endpoint has accepted the event."""
    key = claimed.due._asdict()
    if claimed.attempts == 1:
        # No attempt has failed, so the order's later events were not postponed.
        database.rows(_DELETE, **key)
        return
    with database.atomic():
        database.rows(_DELETE, **key)
        database.rows(_WAKE, **key, now=now)


def retry(claimed: Claim, *, at: datetime) -> None:
    """Record that an attempt has failed, and when the next one is due."""
    key = claimed.due._asdict()
    with database.atomic():
        if database.row(_RETRY, **key, until=claimed.until, next_at=at) is not None:
            database.rows(_POSTPONE, **key, next_at=at)


def give_up(claimed: Claim, *, now: datetime) -> None:
    """Record that the event is not sent any more; the row is kept, and later events of the order are sent."""
    key = claimed.due._asdict()
    with database.atomic():
        database.rows(_GIVE_UP, **key, until=claimed.until)
        database.rows(_WAKE, **key, now=now)


def oldest_undelivered() -> datetime | None:
    """Return when the oldest event happened that is not yet delivered and has not failed; None without one."""
    untaken, pending = database.row(_TO_TAKE, limit=1), database.row(_OLDEST_PENDING)
    return min((row[-1] for row in (untaken, pending) if row), default=None)


def _event_json(event: Event) -> str:
    data = {name: exactjson.digits(value) if name == "total" else value for name, value in event.data.items()}
    return exactjson.dumps({**event._asdict(), "data": data}).decode()
