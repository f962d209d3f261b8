"""Ids, which are UUIDs of version 7 (RFC 9562) in lower case with hyphens, and the keys of e-mail addresses."""

import re
import unicodedata

from uuid_utils import uuid7

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new id. Later ids sort later, so new rows share index pages."""
    return str(uuid7())


def parse_id(text: str) -> str | None:
    """Return `text` as an id in lower case, or None if it is not an id.

    Upper-case digits are accepted (RFC 9562, section 4); braces, URN prefixes and missing hyphens are not.
    """
    lowered = text.lower()
    return lowered if _UUID.fullmatch(lowered) else None


def email_key(address: str) -> str:
    """Return the key of an account: addresses that differ only in case or Unicode composition have the same key.

    PostgreSQL cannot compute it, because the result of `lower()` depends on the locale of the database.
    """
    # Casefolding may decompose characters, so the result is composed again.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", address).casefold())
