"""The statements that the project sends, as Peewee's query hooks report them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from peewee import QueryEvent

from tests import binding
from tests.harness.findings import findings, spend

_PREPARE = re.compile(r"\s*PREPARE\s+([^\s(]+)\s*(?:\([^)]*\))?\s*AS\s+(.*)", re.IGNORECASE | re.DOTALL)
_EXECUTE = re.compile(r"\s*EXECUTE\s+([^\s(]+)", re.IGNORECASE)
# The text of each prepared statement by its name.
_prepared: dict[str, str] = {}


def watch() -> None:
    """Count all statements from now on, and remember what is prepared."""
    hooks = binding.database().query_hooks
    if _note not in hooks:
        hooks.append(_note)


def text_of(sql: str) -> str:
    """Return what an EXECUTE stands for, and any other statement as it is."""
    executed = _EXECUTE.match(sql)
    return _prepared.get(executed[1], sql) if executed else sql


@contextmanager
def noted() -> Iterator[list[QueryEvent]]:
    """Yield a list to which the statements in the block are added.

    PREPARE is left out: whether a connection needs one depends on what it did before.
    """
    events: list[QueryEvent] = []

    def note(event: QueryEvent) -> None:
        if not _PREPARE.match(event.sql):
            events.append(event)

    hooks = binding.database().query_hooks
    hooks.append(note)
    try:
        yield events
    finally:
        hooks.remove(note)


def _note(event: QueryEvent) -> None:
    spend("database", event.duration)
    if prepare := _PREPARE.match(event.sql):
        _prepared[prepare[1]] = prepare[2]
    else:
        findings.statements += 1
