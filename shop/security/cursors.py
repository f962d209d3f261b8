"""Cursors: where a page of a list ended, as an opaque text that only this list takes back.

A cursor is signed together with its scope (whose list, which filter), so that one made for another list, or made up, is
recognized without a look at the database.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SIGNATURE_BYTES = 16


class Position(NamedTuple):
    """The place of an order in a history: the next page begins behind it."""

    created_at: datetime
    id: str


class Cursors:
    """Writes and reads cursors.

    Args:
        key: The key that signs, and verifies first.
        fallbacks: Former keys, which still verify.
    """

    def __init__(self, key: str, fallbacks: Sequence[str]) -> None:
        # Keys of their own, so that nothing signed here means anything elsewhere, nor the other way round.
        self._keys = [hmac.digest(secret.encode(), b"shop cursor", "sha256") for secret in (key, *fallbacks)]

    def write(self, position: Position, scope: str) -> str:
        """Return the cursor of `position` in the list that `scope` names, URL-safe."""
        microseconds = (position.created_at - EPOCH) // MICROSECOND
        payload = microseconds.to_bytes(8, "big", signed=True) + UUID(position.id).bytes
        return base64.urlsafe_b64encode(payload + _signature(self._keys[0], payload, scope)).decode()

    def read(self, text: str, scope: str) -> Position:
        """Return the position that `text` stands for.

        Raises:
            ValueError: `text` is no cursor of the list that `scope` names.
        """
        try:
            raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise ValueError("not a cursor") from error
        payload, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(signature, _signature(key, payload, scope)) for key in self._keys):
            raise ValueError("not a cursor of this list")
        microseconds = int.from_bytes(payload[:8], "big", signed=True)
        try:
            return Position(EPOCH + microseconds * MICROSECOND, str(UUID(bytes=payload[8:])))
        except OverflowError as error:
            raise ValueError("not a moment of the calendar") from error


def _signature(key: bytes, payload: bytes, scope: str) -> bytes:
    return hmac.digest(key, payload + scope.encode(), "sha256")[:SIGNATURE_BYTES]
