"""Cursors for pagination: an opaque text that marks the end of a page.

A cursor is signed with its scope, which is the owner of the list and the filter. So a forged cursor, or one of another
list, is rejected without a query.
"""

import base64
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SIGNATURE_BYTES = 16


class Position(NamedTuple):
    """The position of an order in a list: the next page starts after it."""

    created_at: datetime
    id: str


class Cursors:
    """Signs and verifies cursors with `key`, and verifies those that were signed with the former keys `fallbacks`."""

    def __init__(self, key: str, fallbacks: Sequence[str]) -> None:
        # Derived keys, so that a signature of a cursor is valid only for cursors, and others are not.
        self._keys = [hmac.digest(secret.encode(), b"shop cursor", "sha256") for secret in (key, *fallbacks)]

    def write(self, position: Position, scope: str) -> str:
        """Return the cursor for `position` in the list `scope`, as URL-safe text."""
        microseconds = (position.created_at - EPOCH) // MICROSECOND
        payload = microseconds.to_bytes(8, "big", signed=True) + UUID(position.id).bytes
        return base64.urlsafe_b64encode(payload + _signature(self._keys[0], payload, scope)).decode()

    def read(self, text: str, scope: str) -> Position:
        """Return the position of a cursor.

        Raises:
            ValueError: `text` is not a cursor of the list `scope`.
        """
        raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        payload, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(signature, _signature(key, payload, scope)) for key in self._keys):
            raise ValueError("not a cursor of this list")
        microseconds = int.from_bytes(payload[:8], "big", signed=True)
        return Position(EPOCH + microseconds * MICROSECOND, str(UUID(bytes=payload[8:])))


def _signature(key: bytes, payload: bytes, scope: str) -> bytes:
    return hmac.digest(key, payload + scope.encode(), "sha256")[:SIGNATURE_BYTES]
