"""How isolation fails a test: what the code did, the line that did it, and what to do instead."""

import linecache
import sys
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[2]
HARNESS = Path(__file__).resolve().parent
INSTEAD = "test it in a CommittedApiTestCase"


class SandboxError(AssertionError):
    """The code under test did what isolation cannot allow; the text says what to do instead."""


class Escape(NamedTuple):
    """Something that the code under test must not do here.

    Attributes:
        what: What happened, as a sentence without its end.
        instead: What to do instead.
        where: The innermost line of the project's own code, empty if no frame is the project's.
    """

    what: str
    instead: str
    where: str

    def __str__(self) -> str:
        return f"{self.what}; {self.instead}." + (f"\n  at {self.where}" if self.where else "")


class Escapes:
    """The escapes of one test. The code under test may swallow an exception, so they are kept until the test ends."""

    def __init__(self) -> None:
        self._found: list[Escape] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def note(self, what: str, instead: str, where: str | None = None) -> None:
        """Note an escape; `where` is the calling line of the project unless it is given."""
        self._found.append(Escape(what, instead, line_of_project() if where is None else where))

    def refuse(self, what: str, instead: str = INSTEAD) -> NoReturn:
        """Note an escape that was tried, and stop it.

        Raises:
            SandboxError: Always.
        """
        self.note(what, instead)
        raise SandboxError(str(self._found[-1]))

    def fail(self) -> None:
        """Fail the test if there were escapes.

        Raises:
            SandboxError: There were.
        """
        if self._found:
            found, self._found = self._found, []
            raise SandboxError("\n".join(map(str, found)))


def line_of_project() -> str:
    """Return the line of the service or of a test that led here, in words."""
    return _innermost(sys._getframe(1))


def line_of_thread(ident: int | None) -> str:
    """Return the line of the project that a running thread is at."""
    return _innermost(sys._current_frames().get(ident or 0))


def _innermost(frame: FrameType | None) -> str:
    while frame is not None:
        code = frame.f_code
        if place := _place(code.co_filename):
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            return f"{place}:{frame.f_lineno}, in {code.co_name}: {line}"
        frame = frame.f_back
    return ""


@cache
def _place(filename: str) -> str:
    """Return where a file is in the project, empty if it belongs to a library or to the harness."""
    path = Path(filename)
    if not path.is_relative_to(ROOT) or HARNESS in path.parents or "site-packages" in path.parts:
        return ""
    return str(path.relative_to(ROOT))


def prepares_connection() -> bool:
    """Tell whether Peewee is opening a connection: what it sends now belongs to every new connection."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name in ("connect", "_connect") and Path(code.co_filename).name in ("peewee.py", "pool.py"):
            return True
        frame = frame.f_back
    return False
