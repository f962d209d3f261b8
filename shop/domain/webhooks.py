"""Webhook endpoints: which addresses get which order events, and with which secret they are signed."""

import base64
import ipaddress
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

from peewee import SQL

from shop import exactjson
from shop.domain.events import TYPES
from shop.domain.models import WebhookDelivery, WebhookEndpoint, slots
from shop.ids import new_id, parse_id
from shop.storage.database import database
from shop.storage.statements import Slot, Statement

SECRET_PREFIX = "whsec_"  # noqa: S105 - how each secret of Standard Webhooks begins
SECRET_BYTES = 32
# How long the secret from before a rotation signs beside the new one.
ROTATION = timedelta(hours=24)
LONGEST_URL = 2000


class WebhookRefused(Exception):
    """The webhook command is refused; the text is one sentence for the operator."""


class Endpoint(NamedTuple):
    """An endpoint without its secrets.

    Attributes:
        types: The types of its events; none means all.
        disabled_at: When it answered 410; None while it is in use.
    """

    id: str
    url: str
    types: list[str]
    created_at: datetime
    disabled_at: datetime | None

    def wants(self, type_: str, time: datetime) -> bool:
        """Tell whether the endpoint gets an event: events from before its registration are not sent."""
        return self.disabled_at is None and time >= self.created_at and (not self.types or type_ in self.types)


class FailedDelivery(NamedTuple):
    """An event that an endpoint did not accept after all attempts."""

    event_id: str
    endpoint_id: str
    order_id: str
    attempts: int
    occurred_at: datetime


_E, _D = WebhookEndpoint, WebhookDelivery
_ENDPOINT = (_E.id, _E.url, _E.types, _E.created_at, _E.disabled_at)
_ADD = Statement(
    _E.insert(slots(_E, "id", "url", "types", "secret", "created_at")).on_conflict_ignore().returning(*_ENDPOINT)
)
_LIST = Statement(_E.select(*_ENDPOINT).order_by(_E.id))
_REMOVE = Statement(_E.delete().where(_E.id == Slot("endpoint_id")).returning(_E.url))
_ROTATE = Statement(
    _E.update(
        {
            _E.secret: Slot("secret"),
            _E.previous_secret: _E.secret,
            _E.rotated_at: Slot("now"),
            _E.disabled_at: SQL("NULL"),
        }
    )
    .where(_E.id == Slot("endpoint_id"))
    .returning(*_ENDPOINT)
)
_DISABLE = Statement(_E.update({_E.disabled_at: Slot("now")}).where(_E.id == Slot("endpoint_id")))
_SECRETS = Statement(_E.select(_E.secret, _E.previous_secret, _E.rotated_at).where(_E.id == Slot("endpoint_id")))
_FAILED = Statement(
    _D.select(_D.event_id, _D.endpoint, _D.order_id, _D.attempts, _D.occurred_at)
    .where(_D.status == SQL("'failed'"))
    .order_by(_D.occurred_at)
)
_REPLAY = Statement(
    _D.update({_D.status: SQL("'pending'"), _D.attempts: SQL("0"), _D.due_at: Slot("now")})
    .where(_D.event_id == Slot("event_id"), _D.status == SQL("'failed'"))
    .returning(_D.endpoint)
)


def add(url: str, types: Sequence[str], *, allow_http: bool, now: datetime) -> tuple[Endpoint, str]:
    """Register an endpoint and return it with its secret, which is not shown again.

    Raises:
        WebhookRefused: The URL is not acceptable or registered already, or a type is unknown.
    """
    fault = url_fault(url, allow_http=allow_http)
    if fault:
        raise WebhookRefused(f"the URL {fault}")
    unknown = sorted(set(types) - set(TYPES))
    if unknown:
        raise WebhookRefused(f"there is no event type {', '.join(unknown)}; the types are {', '.join(TYPES)}")
    secret = new_secret()
    row = database.row(
        _ADD,
        id=new_id(),
        url=url,
        types=exactjson.dumps(sorted(set(types))).decode(),
        secret=secret,
        created_at=now,
    )
    if row is None:
        raise WebhookRefused("this URL is registered already")
    return Endpoint._make(row), secret


def list_all() -> list[Endpoint]:
    """Return all endpoints, the oldest first."""
    return [Endpoint._make(row) for row in database.rows(_LIST)]


def remove(endpoint_id: str) -> None:
    """Remove an endpoint with its deliveries, the failed ones too.

    Raises:
        WebhookRefused: There is no such endpoint.
    """
    if database.row(_REMOVE, endpoint_id=_parsed(endpoint_id)) is None:
        raise WebhookRefused(f"there is no endpoint {endpoint_id}")


def rotate(endpoint_id: str, *, now: datetime) -> str:
    """Return a new secret of an endpoint; a disabled endpoint is in use again.

    The old secret signs beside the new one for `ROTATION`, so that the receiver can change over without a gap.

    Raises:
        WebhookRefused: There is no such endpoint.
    """
    secret = new_secret()
    if database.row(_ROTATE, endpoint_id=_parsed(endpoint_id), secret=secret, now=now) is None:
        raise WebhookRefused(f"there is no endpoint {endpoint_id}")
    return secret


def disable(endpoint_id: str, *, now: datetime) -> None:
    """Send no more events to an endpoint."""
    database.rows(_DISABLE, endpoint_id=endpoint_id, now=now)


def signing_secrets(endpoint_id: str, *, now: datetime) -> list[str]:
    """Return the secrets that sign a request to an endpoint now, the newest first; none if it was removed."""
    row = database.row(_SECRETS, endpoint_id=endpoint_id)
    if row is None:
        return []
    secret, previous, rotated_at = row
    return [secret, previous] if previous and now < rotated_at + ROTATION else [secret]


def failed() -> list[FailedDelivery]:
    """Return the deliveries that failed for good, the oldest event first."""
    return [FailedDelivery._make(row) for row in database.rows(_FAILED)]


def replay(event_id: str, *, now: datetime) -> int:
    """Deliver a failed event again, with all attempts; return to how many endpoints.

    Raises:
        WebhookRefused: No delivery of this event has failed.
    """
    found = database.rows(_REPLAY, event_id=_parsed(event_id), now=now)
    if not found:
        raise WebhookRefused(f"no delivery of the event {event_id} has failed")
    return len(found)


def url_fault(url: str, *, allow_http: bool) -> str | None:
    """Return why no webhook is sent to a URL, to be read after "the URL"; None if it is acceptable.

    This does not look at the address behind the name: that is checked at each connection.
    """
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        return f"must have at most {LONGEST_URL} printable ASCII characters"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is malformed"
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        return "must begin with https://" + (" or http://" if allow_http else "")
    if not host or parts.username is not None or parts.fragment:
        return "must have a host, and neither a user name nor a fragment"
    return None


def is_public(address: str) -> bool:
    """Tell whether an IP address belongs to the public internet, also if it is wrapped in an IPv6 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


# RFC 6052, section 2.1: the last 32 bits are an IPv4 address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def new_secret() -> str:
    """Return a new secret, in the form of Standard Webhooks."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _parsed(text: str) -> str:
    parsed = parse_id(text)
    if parsed is None:
        raise WebhookRefused(f"{text} is not an id")
    return parsed
