"""The service's SQL statements, found in its modules, and what PostgreSQL would do for each.

Tests that hold all statements to a rule are built on this: a new `Statement` joins them by itself.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from psycopg2.extensions import connection

import shop
from shop.storage.statements import Statement

# These do something when they are imported, and have no statements; migrations are no part of the service's work.
_NOT_IMPORTED = ("shop.__main__", "shop.wsgi", "shop.storage.migrations.")
_NOW = datetime(2025, 6, 1, tzinfo=UTC)
ID = "00000000-0000-7000-8000-000000000001"
# A value for each slot, as the service might give it. The ids and the times fit the rows of `test_plans`.
SAMPLES: dict[str, object] = {
    "id": ID,
    "user_id": ID,
    "name": "Ada Lovelace",
    "email": "user-7@example.com",
    "email_key": "user-7@example.com",
    "account": b"digest",
    "password_hash": "$argon2id$",
    "old_hash": "$argon2id$",
    "new_hash": "$argon2id$",
    "role": "staff",
    "items": "[]",
    "total": 1,
    "status": "confirmed",
    "before": ["pending", "confirmed"],
    "shipping_address": "{}",
    "idempotency_key": "key-1",
    "request_digest": b"digest",
    "limit": 21,
    "created_at": _NOW,
    "now": _NOW,
    "events": "[]",
    "order_id": ID,
    "endpoint_id": ID,
    "event_id": ID,
    "position": 0,
    "occurred_at": _NOW,
    "due_at": _NOW,
    "next_at": _NOW,
    "until": _NOW,
    "taken": 1,
    "url": "https://example.com/7",
    "types": "[]",
    "secret": "whsec_",
    "event": '{"data": {}}',
    "expiry": _NOW - timedelta(minutes=15),
}
PLAN_MODES = ("force_custom_plan", "force_generic_plan")


@cache
def statements() -> dict[str, Statement]:
    """Return every statement that a module of the service holds, by module and name."""
    found: dict[str, Statement] = {}
    for info in pkgutil.walk_packages(shop.__path__, "shop."):
        if not info.name.startswith(_NOT_IMPORTED):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                for place, statement in _within(f"{info.name}.{name}", value):
                    # A module may have imported it from the one that holds it, which is another name for the same.
                    if statement not in found.values():
                        found[place] = statement
    return found


def _within(place: str, value: object) -> Iterator[tuple[str, Statement]]:
    """Yield the statements in a module's attribute: itself, or what a class or a container has."""
    if isinstance(value, Statement):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _within(f"{place}[{key!r}]", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _within(f"{place}[{number}]", inner)
    elif isinstance(value, type) and value.__module__.startswith("shop"):
        for name, inner in vars(value).items():
            if isinstance(inner, Statement):
                yield f"{place}.{name}", inner


@dataclass(frozen=True)
class Node:
    """A node of a plan.

    Attributes:
        facts: What EXPLAIN says of it.
        above: The nodes that it works for, from the top.
    """

    facts: dict[str, Any]
    above: "tuple[Node, ...]"

    @property
    def kind(self) -> str:
        """Its type, in EXPLAIN's words."""
        kind: str = self.facts["Node Type"]
        return kind

    @property
    def table(self) -> str | None:
        """The table that it reads or changes."""
        return self.facts.get("Relation Name")

    @property
    def conditions(self) -> str:
        """What it asks of rows, by an index or by looking at them."""
        names = ("Index Cond", "Recheck Cond", "Filter")
        return " AND ".join(self.facts[name] for name in names if name in self.facts)


def plan(connected: connection, statement: Statement, mode: str, **values: object) -> list[Node]:
    """Return the nodes of the plan of `statement`, from the top, as PostgreSQL makes it for a prepared statement.

    Args:
        connected: In autocommit.
        statement: Planned, not run.
        mode: One of PLAN_MODES: for these values, or for any.
        values: Other values for slots than SAMPLES has.

    Raises:
        KeyError: SAMPLES has no value for a slot of a new statement.
    """
    numbers = iter(range(1, 100))
    text = re.sub("%s", lambda _: f"${next(numbers)}", statement.sql)
    given = statement.bind(SAMPLES | values)
    with connected.cursor() as cursor:
        cursor.execute(f"SET plan_cache_mode = {mode}; PREPARE planned AS {text}")
        try:
            arguments = f"({', '.join(['%s'] * len(given))})" if given else ""
            cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE planned{arguments}", given)
            ((document,),) = cursor.fetchall()
        finally:
            cursor.execute("DEALLOCATE planned; RESET plan_cache_mode")
    return list(_nodes(document[0]["Plan"], ()))


def _nodes(facts: dict[str, Any], above: tuple[Node, ...]) -> Iterator[Node]:
    node = Node(facts, above)
    yield node
    for inner in facts.get("Plans", ()):
        yield from _nodes(inner, (*above, node))
