"""The guard: notices when the code under test gets out of the sandbox, and says where and what to do instead.

What the sandbox cannot stand in for is refused when it is tried (a plain COMMIT, LISTEN) or found when the test ends
(a connection, a thread, a lock or a setting left behind). Either way it is kept until the end, because the service may
well swallow the exception on the way: a test that escapes fails, by name.
"""

import re
import sys
import threading
import traceback
import weakref
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import psycopg2
from psycopg2.extensions import connection, cursor

from tests import binding

ROOT = Path(__file__).resolve().parents[2]
INSTEAD = "test it in a CommittedApiTestCase"

_LITERAL = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
# ROLLBACK TO a savepoint ends nothing; ROLLBACK and its kin do.
_ENDS_TRANSACTION = re.compile(
    r"^\s*(?:COMMIT|END|ABORT|BEGIN|START\s+TRANSACTION|PREPARE\s+TRANSACTION|ROLLBACK(?!\s+(?:\w+\s+)?TO\b))\b", re.I
)
_NOTIFIES = re.compile(r"^\s*(?:LISTEN|UNLISTEN|NOTIFY)\b|\bpg_notify\s*\(", re.I)
_LOCKS_SESSION = re.compile(r"\bpg_(?:try_)?advisory_lock", re.I)
_SETS_SESSION = re.compile(r"^\s*SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)|\bset_config\s*\(", re.I)

_SESSION_SETTINGS = "SELECT name FROM pg_settings WHERE source = 'session'"
_SESSION_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"


class SandboxError(AssertionError):
    """The code under test did what the sandbox cannot stand in for; the text says what to do instead."""


class Escape(NamedTuple):
    """A way out of the sandbox that was taken.

    Attributes:
        what: What happened, as a sentence without its end.
        instead: What to do instead.
        where: The innermost frame of the project's own code, empty when there is none.
    """

    what: str
    instead: str
    where: str

    def __str__(self) -> str:
        return f"{self.what}; {self.instead}." + (f"\n  at {self.where}" if self.where else "")


class Guard:
    """Watches one test, on the connection that it is pinned to.

    Args:
        pinned: The sandbox's connection; its cursors are watched until `release`.
    """

    def __init__(self, pinned: connection) -> None:
        self.escapes: list[Escape] = []
        self._pinned = pinned
        self._threads = set(threading.enumerate())
        self._opened: list[tuple[weakref.ref[connection], str]] = []
        self._settings_before: set[str] | None = None
        self._set_where = self._locked_where = ""
        self._outside = psycopg2.connect, pinned.cursor_factory
        psycopg2.connect = self._watched_connect
        pinned.cursor_factory = self._watched_cursor

    @property
    def is_suspicious(self) -> bool:
        """Whether something happened that may have left committed rows behind."""
        return bool(self.escapes or self._opened)

    def release(self) -> None:
        """Stop watching, and look for what was left behind, while the sandbox's transaction is still open."""
        psycopg2.connect, self._pinned.cursor_factory = self._outside
        for opened, where in self._opened:
            left = opened()
            if left is not None and not left.closed:
                self._note("a connection was left open", "close it", where)
                left.close()
        for thread in set(threading.enumerate()) - self._threads:
            where = _frame_of_project(sys._current_frames().get(thread.ident or 0))
            self._note(f"the thread {thread.name!r} was left running", "join it before the test ends", where)
        if self._settings_before is not None and not self._pinned.closed:
            left_set = self._names(_SESSION_SETTINGS) - self._settings_before
            if left_set:
                what = f"the session's setting {', '.join(sorted(left_set))} was left changed"
                self._note(what, "use SET LOCAL inside a transaction", self._set_where)

    def release_locks(self) -> None:
        """Look for session locks, which outlive the sandbox's transaction, and let go of them."""
        if not self._locked_where or self._pinned.closed:
            return
        if self._names(_SESSION_LOCKS) != {0}:
            self._note("a session's advisory lock was left held", "use pg_advisory_xact_lock", self._locked_where)
            self._names("SELECT pg_advisory_unlock_all()")

    def inspect(self, query: Any) -> None:
        """Look at a statement before it is sent.

        Raises:
            SandboxError: The sandbox cannot let it through.
        """
        for kind, statement in _remarkable(_text(query)):
            if kind is _ENDS_TRANSACTION:
                what = f"{' '.join(statement.split())[:60]!r} was sent as plain SQL"
                self.refuse(what, f"use database.atomic(), or {INSTEAD}")
            elif kind is _NOTIFIES:
                self.refuse("LISTEN or NOTIFY, which take effect at COMMIT, were used", INSTEAD)
            elif kind is _LOCKS_SESSION:
                self._locked_where = self._locked_where or _frame_of_project(sys._getframe())
            elif self._settings_before is None:
                self._set_where = _frame_of_project(sys._getframe())
                self._settings_before = self._names(_SESSION_SETTINGS)

    def refuse(self, what: str, instead: str) -> NoReturn:
        """Note an escape that was tried, and stop it.

        Raises:
            SandboxError: Always.
        """
        self._note(what, instead, _frame_of_project(sys._getframe()))
        raise SandboxError(str(self.escapes[-1]))

    def note_lost_transaction(self) -> None:
        """Note that the sandbox's transaction was not there any more when the test ended."""
        self._note("the sandbox's transaction ended during the test, or its connection was lost", INSTEAD, "")

    def note_rows_left(self, tables: list[str]) -> None:
        """Note that others see rows that the test has left in `tables`."""
        where = next((where for _, where in self._opened), "")
        self._note(f"rows were left in {', '.join(tables)} for every connection to see", INSTEAD, where)

    def _note(self, what: str, instead: str, where: str) -> None:
        self.escapes.append(Escape(what, instead, where))

    def _names(self, query: str) -> set[Any]:
        with self._pinned.cursor(cursor_factory=cursor) as plain:
            plain.execute(query)
            return {name for (name,) in plain.fetchall()}

    def _watched_connect(self, *args: Any, **kwargs: Any) -> connection:
        opened = self._outside[0](*args, **kwargs)
        self._opened.append((weakref.ref(opened), _frame_of_project(sys._getframe())))
        return opened

    def _watched_cursor(self, *args: Any, **kwargs: Any) -> cursor:
        watched = _WatchedCursor(*args, **kwargs)
        watched.guard = self
        return watched


class _WatchedCursor(cursor):
    guard: Guard

    def execute(self, query: Any, *args: Any, **options: Any) -> cursor:
        self.guard.inspect(query)
        return super().execute(query, *args, **options)


# The service sends the same few texts again and again.
@lru_cache(maxsize=512)
def _remarkable(text: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return those of the statements in `text` that the sandbox has to do with, each with what it is."""
    kinds = (_ENDS_TRANSACTION, _NOTIFIES, _LOCKS_SESSION, _SETS_SESSION)
    statements = _LITERAL.sub("", text).split(";")
    found = ((next((kind for kind in kinds if kind.search(statement)), None), statement) for statement in statements)
    return tuple((kind, statement) for kind, statement in found if kind)


def _text(query: Any) -> str:
    return query.decode("utf-8", "replace") if isinstance(query, bytes) else str(query)


def _frame_of_project(frame: FrameType | None) -> str:
    """Return the innermost frame of the service or of a test, at or above `frame`, in one line."""
    for summary in traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False):
        path = Path(summary.filename)
        if path.is_relative_to(ROOT / binding.PACKAGE) or (
            path.is_relative_to(ROOT / "tests") and path.parent.name != "harness"
        ):
            return f"{path.relative_to(ROOT)}:{summary.lineno}, in {summary.name}: {summary.line}"
    return ""
