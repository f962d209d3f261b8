"""The service's log: one line for each thing that happened, on stderr, as JSON for programs or as text for people.

stderr, because stdout has the sentences that `shop serve` tells a person: so the log is a stream of its own, in which
every line is a record. Each line is one write. Of errors it has where they came from and what kind they are; what a
client sent, or a row holds, is left out wherever an error's own text would repeat it.
"""

import logging
import os
import threading
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from shop.settings import Settings

STDERR = 2
# POSIX: writes of several processes to one pipe stay apart up to PIPE_BUF bytes, which are 4096 where it matters.
LONGEST_LINE = 4096
LONGEST_TEXT = 1000
CUT = " … "
# SQLSTATE classes (PostgreSQL, appendix A): in the message of a data exception is the value itself.
DATA_EXCEPTION = "22"
_LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}
# What would let a text write lines that nobody logged, or talk to a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != ord("\n")}


class _CurrentRequest(threading.local):
    """What the log knows about the request that this thread serves.

    Attributes:
        request_id: Its id; None while the thread serves none.
        statements: How many statements it has run.
        seconds: How long they took.
    """

    request_id: str | None = None
    statements: int = 0
    seconds: float = 0.0


current_request = _CurrentRequest()


class LogWriter:
    """Writes log lines.

    Args:
        as_text: Whether they are for people.
        level: The least level that is written, of the module `logging`.
        descriptor: The file that they go to.
    """

    def __init__(self, *, as_text: bool, level: int, descriptor: int = STDERR) -> None:
        self.level = level
        self._as_text = as_text
        self._descriptor = descriptor

    def write(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """Write a line, whatever its level.

        Args:
            level: Its name.
            message: What happened, in a few words that are always the same.
            fields: What else is known, in the order of the line.
        """
        line = _as_text(level, message, fields) if self._as_text else _as_json(level, message, fields)
        try:
            os.write(self._descriptor, line)
        except OSError:
            # Nobody reads the log any more. That is no reason to refuse a request.
            return


def configure(settings: Settings) -> LogWriter:
    """Send all records of this process to stderr as the settings say, and return what writes them.

    Other packages are heard from their warnings on, whatever the level: Peewee's debug records have the values of
    statements in them.
    """
    as_text = settings.log_format == "text" or (settings.log_format is None and os.isatty(STDERR))
    writer = LogWriter(as_text=as_text, level=_LEVELS[settings.log_level])
    root = logging.getLogger()
    root.handlers[:] = [_Handler(writer)]
    root.setLevel(max(writer.level, logging.WARNING))
    for name in ("shop", "_granian"):
        logging.getLogger(name).setLevel(writer.level)
    logging.captureWarnings(True)
    return writer


def _redacted(error: BaseException) -> str:
    """Return the message of an error in one line, without values from requests or rows.

    The driver's own message contains the statement with its values, and the row that was refused.
    """
    origin = getattr(error, "orig", None) or error
    primary = getattr(getattr(origin, "diag", None), "message_primary", None)
    if primary:
        code = str(getattr(origin, "pgcode", ""))
        words = f"SQLSTATE {code}" if code.startswith(DATA_EXCEPTION) else f"{primary} (SQLSTATE {code})"
    elif type(error).__module__.startswith("pydantic"):
        words = "a document was found invalid"
    else:
        words = str(error)
    return _shortened(" ".join(words.split()), LONGEST_TEXT)


class _Handler(logging.Handler):
    """Hands the records of the module `logging` to a writer."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"logger": record.name}
        if current_request.request_id is not None:
            fields["request_id"] = current_request.request_id
        fields |= record.__dict__.get("fields", {})
        if record.exc_info and (error := record.exc_info[1]):
            # A warning has a known cause, so its traceback says nothing new.
            lines = _traceback(error) if record.levelno >= logging.ERROR else [_summary(error)]
            fields["exception"] = "\n".join(lines)
        self._writer.write(record.levelname.lower(), record.getMessage(), fields)


def _traceback(error: BaseException) -> Iterator[str]:
    """Yield where an error came from and what it is, those before it first, as Python shows it."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _traceback(before)
        yield "then:"
    yield from (line.rstrip() for line in traceback.format_tb(error.__traceback__))
    yield _summary(error)


def _summary(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: {_redacted(error)}"


def _as_json(level: str, message: str, fields: Mapping[str, object]) -> bytes:
    line = {"time": datetime.now(UTC), "level": level, "message": message, **fields}
    options = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
    try:
        text = orjson.dumps(line, option=options)
    except TypeError:
        # Lone surrogates: JSON has no way to say them.
        line |= {name: _encodable(value) for name, value in line.items() if isinstance(value, str)}
        text = orjson.dumps(line, option=options)
    while (excess := len(text) - LONGEST_LINE) > 0:
        sizes = {name: len(orjson.dumps(value)) for name, value in line.items() if isinstance(value, str)}
        longest = max(sizes, key=lambda name: sizes[name])
        value, size = str(line[longest]), sizes[longest]
        # As if all its characters took the same room; where they do not, another round does the rest.
        line[longest] = _shortened(value, max(0, len(value) * (size - excess) // size - 1))
        text = orjson.dumps(line, option=options)
    return text


def _as_text(level: str, message: str, fields: Mapping[str, object]) -> bytes:
    shown = dict(fields)
    exception = str(shown.pop("exception", ""))
    words = [f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z", f"{level.upper():7}", message]
    words += [f"{name}={value}" for name, value in shown.items() if value is not None]
    line = " ".join(words).replace("\n", " ") + (f"\n{exception}" if exception else "")
    return f"{line.translate(_CONTROLS)}\n".encode("utf-8", "backslashreplace")


def _encodable(value: Any) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def _shortened(text: str, length: int) -> str:
    """Return `text` with so many characters at most; what is cut is its middle."""
    if len(text) <= length:
        return text
    kept = max(0, length - len(CUT.encode()))
    return text[: kept // 2] + CUT + text[len(text) - kept // 2 :]
