"""One webhook request, as Standard Webhooks has it (https://www.standardwebhooks.com), to an address that was checked.

The name in an endpoint's URL is resolved once. The connection goes to an address of that answer which was checked, so
a name that changes its address in between (DNS rebinding) gains nothing. TLS still verifies the name.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import httpx
from standardwebhooks import Webhook

from shop import __version__, exactjson
from shop.api import responses
from shop.domain.events import Event
from shop.domain.webhooks import is_public, url_fault

# How long a request may take from the look-up of the name to the head of the response, in seconds.
TIMEOUT = 10.0
GONE = 410  # The receiver wants no further events.


class Refused(Exception):
    """The request must not be sent; the text says why."""


class Outcome(NamedTuple):
    """What came of a request.

    Attributes:
        status: The status of the response; None if there was none.
        failure: Why there was none, in a few words without parts of the URL.
        seconds: How long it took.
    """

    status: int | None
    failure: str | None
    seconds: float

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has accepted the event."""
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Sends webhook requests. Redirects are not followed, and the response's body is not read.

    Args:
        allow_http: Whether URLs may begin with http://.
        allow_private: Whether addresses outside the public internet are allowed.
        timeout: The longest time of a request, in seconds.
        tls: How certificates are verified; None for the usual authorities.
    """

    def __init__(
        self, *, allow_http: bool, allow_private: bool, timeout: float = TIMEOUT, tls: ssl.SSLContext | None = None
    ) -> None:
        self._allow_http = allow_http
        self._allow_private = allow_private
        self._timeout = timeout
        self._tls = tls or httpx.create_ssl_context()

    def send(self, url: str, event: Event, secrets: list[str], *, now: datetime) -> Outcome:
        """Send an event to a URL, signed with each of the secrets, and return what came of it."""
        began = time.monotonic()
        content = body(event)
        headers = signed_headers(event.id, content, secrets, now)
        status, failure = None, None
        try:
            status = asyncio.run(self._post(url, content, headers))
        except TimeoutError:
            failure = f"no response within {self._timeout:g} s"
        except Refused as error:
            failure = str(error)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            # Its text may repeat the URL, which may have a token in it.
            failure = type(error).__name__
        return Outcome(status, failure, time.monotonic() - began)

    async def _post(self, url: str, content: bytes, headers: Mapping[str, str]) -> int:
        fault = url_fault(url, allow_http=self._allow_http)
        if fault:
            raise Refused(f"the URL {fault}")
        named = httpx.URL(url)
        # The client's own limits are for each read. This one is for all of them.
        async with asyncio.timeout(self._timeout):
            address = await self._address_of(named)
            client = httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False, timeout=self._timeout)
            async with (
                client,
                client.stream(
                    "POST",
                    named.copy_with(host=address),
                    content=content,
                    headers={**headers, "Host": named.netloc.decode()},
                    extensions={"sni_hostname": named.raw_host.decode()},
                ) as response,
            ):
                return response.status_code

    async def _address_of(self, url: httpx.URL) -> str:
        """Return an address to connect to.

        Raises:
            Refused: All addresses of the host are private.
            OSError: The name has no address.
        """
        port = url.port or (443 if url.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(url.raw_host.decode(), port, type=socket.SOCK_STREAM)
        for *_, address in found:
            host = str(address[0])
            if self._allow_private or is_public(host):
                return host
        raise Refused("the address is not public")


def body(event: Event) -> bytes:
    """Return the body of a webhook request."""
    document = {"type": event.type, "timestamp": event.time, "data": responses.event_data(event)}
    return exactjson.dumps(document)


def signed_headers(event_id: str, content: bytes, secrets: list[str], now: datetime) -> dict[str, str]:
    """Return the headers of a webhook request, with a signature for each secret."""
    signatures = [Webhook(secret).sign(event_id, now, content.decode()) for secret in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"shop/{__version__}",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
