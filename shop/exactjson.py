"""Read and write JSON without floats: fractions are decimals, and ambiguous text is refused.

jiter reads and orjson writes; this module adds limits and error messages.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

import jiter
import orjson

MAX_DEPTH = 32
# The maximum number of values in a document, nested ones included. The largest valid request has about 500. Each value
# may be invalid, and reporting an invalid value takes ten times as long as reading it.
MAX_VALUES = 2_000
# Encoded JSON text, which `dumps` copies into a larger document.
Raw = orjson.Fragment


def loads(text: bytes) -> object:
    """Parse one JSON document (RFC 8259); numbers with fractions or exponents become `Decimal`.

    Besides malformed text, it refuses a byte-order mark, invalid UTF-8, lone surrogates, duplicate keys, NaN,
    Infinity, nesting over `MAX_DEPTH`, and more than `MAX_VALUES` values.

    Raises:
        ValueError: The text is refused. The client may read the message.
    """
    try:
        value = jiter.from_json(text, float_mode="decimal", catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(_reason(text, error)) from error
    # Counting characters is quick. Only a document with many of them can exceed a limit, so only then it is walked.
    containers = text.count(b"[") + text.count(b"{")
    if containers > MAX_DEPTH or containers + text.count(b",") > MAX_VALUES:
        _check_size(value)
    return value


def loads_stored(text: str) -> Any:
    """Parse JSON text from the database, which has validated it; `digits` writes its fractions."""
    return jiter.from_json(text.encode(), float_mode="lossless-float")


def digits(value: jiter.LosslessFloat | int) -> Raw | int:
    """Return a number of `loads_stored` for `dumps`, with its stored digits.

    A `Decimal` in between would take half as long again, and a page has hundreds of prices.
    """
    return Raw(bytes(value)) if isinstance(value, jiter.LosslessFloat) else value


def dumps(value: object) -> bytes:
    """Return `value` as JSON text in UTF-8; a `Decimal` becomes a number with its own digits, a UTC time ends with Z.

    Raises:
        TypeError: Something in `value` has no JSON form.
    """
    return orjson.dumps(value, default=_encode, option=orjson.OPT_UTC_Z)


def timestamp(moment: datetime) -> datetime | str:
    """Return a value that `dumps` writes as the RFC 3339 form of a UTC time, with microseconds and ``Z``."""
    # orjson takes a tenth of the time of isoformat, but it omits microseconds that are 0.
    return moment if moment.microsecond else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def number(value: Decimal) -> Raw:
    """Return a finite `value` for `dumps`, as a number with its own digits.

    `dumps` also accepts a `Decimal`, but takes three times as long.
    """
    return Raw(format(value, "f"))


def _encode(value: object) -> Raw:
    if isinstance(value, Decimal) and value.is_finite():
        return number(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _reason(text: bytes, error: ValueError) -> str:
    """Return what is wrong with `text`, in the parser's words or clearer ones."""
    if text.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte-order mark"
    try:
        text.decode()
    except UnicodeDecodeError as undecodable:
        return f"it is not UTF-8 at byte {undecodable.start}"
    if str(error).startswith("Internal error"):
        # The parser says this of a number that no Decimal can represent.
        return "a number in it is out of range"
    return str(error)


def _check_size(value: object) -> None:
    """Raise ValueError for a document that is too deep or too large; it stops early and does not recurse."""
    values = 0
    containers = [(value, 1)]
    while containers:
        container, depth = containers.pop()
        children = _children(container)
        values += len(children)
        inner = [(child, depth + 1) for child in children if isinstance(child, dict | list)]
        if inner and depth >= MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if values > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES} values")
        containers += inner


def _children(node: object) -> list[object]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
