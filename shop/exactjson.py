"""JSON text, exactly: numbers are never floats on the way in or out, and doubtful text is refused.

Reading is jiter's, writing is orjson's; what is ours are the settings and the sentences.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

import jiter
import orjson

MAX_DEPTH = 32
# How many values a document may have, those in others included; the largest that means anything here has some 500. Each
# may be at fault, and finding and naming a fault takes ten times as long as reading a value.
MAX_VALUES = 2_000
# JSON text that is already encoded, to be put into a larger document as it is.
Raw = orjson.Fragment


def loads(text: bytes) -> object:
    """Parse one JSON document (RFC 8259) whose fractions and exponents come as `Decimal`.

    Refused besides malformed text: a byte-order mark, invalid UTF-8, lone surrogates, duplicate keys, NaN and
    Infinity, nesting beyond `MAX_DEPTH`, and more than `MAX_VALUES` values.

    Raises:
        ValueError: The text is refused; the message says why, and is fit for the client.
    """
    try:
        value = jiter.from_json(text, float_mode="decimal", catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(_reason(text, error)) from error
    # Counting characters is all but free; only a document with many of these is worth the walk.
    containers = text.count(b"[") + text.count(b"{")
    if containers > MAX_DEPTH or containers + text.count(b",") > MAX_VALUES:
        _check_size(value)
    return value


def loads_stored(text: str) -> Any:
    """Parse JSON text that the database has checked; `digits` writes its fractions again."""
    return jiter.from_json(text.encode(), float_mode="lossless-float")


def digits(value: jiter.LosslessFloat | int) -> Raw | int:
    """Return a number of `loads_stored` for `dumps`, with the digits that it was stored with.

    By way of a `Decimal` it would take half as long again, and a page has hundreds of prices.
    """
    return Raw(bytes(value)) if isinstance(value, jiter.LosslessFloat) else value


def dumps(value: object) -> bytes:
    """Return `value` as JSON text in UTF-8; a `Decimal` becomes a number with its own digits, a UTC time ends with Z.

    Raises:
        TypeError: Something in `value` has no JSON form.
    """
    return orjson.dumps(value, default=_encode, option=orjson.OPT_UTC_Z)


def timestamp(moment: datetime) -> datetime | str:
    """Return a UTC moment as what `dumps` writes in the form of RFC 3339 with ``Z``, always with microseconds."""
    # The writer takes a tenth of the time of isoformat, and a page has up to 100 of them; but it drops a fraction of 0.
    return moment if moment.microsecond else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def number(value: Decimal) -> Raw:
    """Return a finite `value` as a number with its own digits, for a document that is written often.

    `dumps` would come to the same by way of a call back, in three times the time.
    """
    return Raw(format(value, "f"))


def _encode(value: object) -> Raw:
    if isinstance(value, Decimal) and value.is_finite():
        return number(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _reason(text: bytes, error: ValueError) -> str:
    """Say what is wrong with `text`, in better words than the parser's where there are any."""
    if text.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte-order mark"
    try:
        text.decode()
    except UnicodeDecodeError as undecodable:
        return f"it is not UTF-8 at byte {undecodable.start}"
    if str(error).startswith("Internal error"):
        # The parser's own name for a number that no Decimal can hold.
        return "a number in it is out of range"
    return str(error)


def _check_size(value: object) -> None:
    """Raise ValueError for a document that is too deep or too large, without recursion and as soon as that is known."""
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
