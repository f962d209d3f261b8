"""The log of the service: one line per event on stderr, as JSON for programs or as text for people.

The sentences that `shop serve` prints for people go to stdout, so every line on stderr is a record. Each line is one
write. Errors are redacted: their messages could repeat values from a request or a row.
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
# Writes of several processes to one pipe do not mix up to PIPE_BUF bytes (POSIX), which is 4096 on Linux.
LONGEST_LINE = 4096
LONGEST_TEXT = 1000
CUT = " … "
# A class of SQLSTATE (PostgreSQL, appendix A). The message of a data exception contains the value.
DATA_EXCEPTION = "22"
# Control characters, which could forge log lines or control a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != ord("\n")}


class _CurrentRequest(threading.local):
    """Facts for the log about the request that this thread serves."""

    request_id: str | None = None  # None while the thread serves no request
    statements: int = 0  # SQL statements so far
    seconds: float = 0.0  # their total time


current_request = _CurrentRequest()


class LogWriter(logging.Handler):
    """Writes log lines; as a handler it also writes the records of the module `logging`.

    Args:
        as_text: Whether to write text for people instead of JSON.
        level: The lowest level that is logged, as a number of the module `logging`. `write` does not check it.
        descriptor: The file to write to.
    """

    def __init__(self, *, as_text: bool, level: int, descriptor: int = STDERR) -> None:
        super().__init__(level)
        self._as_text = as_text
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, with the id of the request that this thread serves."""
        fields: dict[str, object] = {"logger": record.name}
        if current_request.request_id is not None:
            fields["request_id"] = current_request.request_id
        fields |= record.__dict__.get("fields", {})
        if record.exc_info and (error := record.exc_info[1]):
            # A warning has a known cause, so its traceback says nothing new.
            lines = _traceback(error) if record.levelno >= logging.ERROR else [_summary(error)]
            fields["exception"] = "\n".join(lines)
        self.write(record.levelname.lower(), record.getMessage(), fields)

    def write(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """Write a line: a message of a few constant words, and more facts in the order of `fields`."""
        line = _as_text(level, message, fields) if self._as_text else _as_json(level, message, fields)
        try:
            os.write(self._descriptor, line)
        except OSError:
            # The reader of the log has gone. Requests are still served.
            return


def configure(settings: Settings) -> LogWriter:
    """Send all log records of this process to stderr in the format of the settings, and return their writer.

    Records of other packages below warnings are dropped at every level: Peewee's debug records contain values.
    """
    as_text = settings.log_format == "text" or (settings.log_format is None and os.isatty(STDERR))
    writer = LogWriter(as_text=as_text, level=logging.getLevelNamesMapping()[settings.log_level.upper()])
    root = logging.getLogger()
    root.handlers[:] = [writer]
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
        words = "validation failed"
    else:
        words = str(error)
    return _shortened(" ".join(words.split()), LONGEST_TEXT)


def _traceback(error: BaseException) -> Iterator[str]:
    """Yield the lines of a redacted traceback, in Python's order: causes first."""
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
        # Lone surrogates, which JSON cannot represent.
        line |= {name: _encodable(value) for name, value in line.items() if isinstance(value, str)}
        text = orjson.dumps(line, option=options)
    while (excess := len(text) - LONGEST_LINE) > 0:
        sizes = {name: len(orjson.dumps(value)) for name, value in line.items() if isinstance(value, str)}
        longest = max(sizes, key=lambda name: sizes[name])
        value, size = str(line[longest]), sizes[longest]
        # This assumes characters of equal size. If their sizes differ, another round is needed.
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
    """Return `text` with at most `length` characters; if it is longer, its middle is cut out."""
    if len(text) <= length:
        return text
    kept = max(0, length - len(CUT.encode()))
    return text[: kept // 2] + CUT + text[len(text) - kept // 2 :]
