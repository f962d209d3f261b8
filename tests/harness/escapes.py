"""How isolation fails a test: what the code did, the line that did it, and what to do instead."""

import linecache
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
HARNESS = Path(__file__).resolve().parent
INSTEAD = "test it in a CommittedApiTestCase"


class SandboxError(AssertionError):
    """The code under test did what isolation cannot allow; the text says what to do instead."""


class Escapes:
    """What the code under test did in one test and must not do. It may swallow an exception, so they are kept."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def note(self, what: str, instead: str, where: str | None = None) -> None:
        """Note an escape.

        Args:
            what: What happened, as a sentence without its end.
            instead: What to do instead.
            where: The line of the project; the innermost one that led here unless it is given.
        """
        where = line_of_project() if where is None else where
        self._found.append(f"{what}; {instead}." + (f"\n  at {where}" if where else ""))

    def refuse(self, what: str, instead: str = INSTEAD) -> NoReturn:
        """Note an escape that was tried, and stop it by a SandboxError."""
        self.note(what, instead)
        raise SandboxError(self._found[-1])

    def fail(self) -> None:
        """Fail the test with a SandboxError if there were escapes."""
        if self._found:
            found, self._found = self._found, []
            raise SandboxError("\n".join(found))


def line_of_project() -> str:
    """Return the line of the service or of a test that led here, in words."""
    return _innermost(sys._getframe(1))


def line_of_thread(ident: int | None) -> str:
    """Return the line of the project that a running thread is at."""
    return _innermost(sys._current_frames().get(ident or 0))


def _innermost(frame: FrameType | None) -> str:
    for code, number in _frames(frame):
        if place := _place(code.co_filename):
            return f"{place}:{number}, in {code.co_name}: {linecache.getline(code.co_filename, number).strip()}"
    return ""


def _frames(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    """Yield the code and the line of each frame, the innermost first."""
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


@cache
def _place(filename: str) -> str:
    """Return where a file is in the project, empty if it belongs to a library or to the harness."""
    path = Path(filename)
    if not path.is_relative_to(ROOT) or HARNESS in path.parents or "site-packages" in path.parts:
        return ""
    return str(path.relative_to(ROOT))


def prepares_connection() -> bool:
    """Tell whether Peewee is opening a connection: what it sends now belongs to every new connection."""
    return any(
        code.co_name in ("connect", "_connect") and Path(code.co_filename).name in ("peewee.py", "pool.py")
        for code, _ in _frames(sys._getframe(1))
    )
