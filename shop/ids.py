"""Identifiers: UUIDs of version 7 (RFC 9562), written in lower case with hyphens, and the keys of e-mail addresses."""

import re
import unicodedata

from uuid_utils import uuid7

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new id; ids made later sort later, which keeps index pages local."""
    return str(uuid7())


def parse_id(text: str) -> str | None:
    """Return `text` as an id in its one spelling, or None when it cannot be an id.

    Upper-case digits are accepted (RFC 9562, section 4); braces, URN prefixes and missing hyphens are not.
    """
    lowered = text.lower()
    return lowered if _UUID.fullmatch(lowered) else None


def email_key(address: str) -> str:
    """Return what identifies an account: addresses that differ only in case or in composition have one key.

    PostgreSQL does not compute it: what `lower()` returns depends on the locale of the database.
    """
    # Folding can take a composed character apart, so the result is composed again.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", address).casefold())
