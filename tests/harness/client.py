"""A client of the API in the same process: WebTest with JSON, a user's credentials, and the status in the call."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

from peewee import QueryEvent
from webtest import TestApp, TestResponse

from tests import binding
from tests.harness import contract
from tests.harness.findings import spending
from tests.harness.statements import noted, text_of

# To unittest the frames of this module are its own: a traceback ends in the test.
__unittest = True
# Characters of a body or a statement that a failure shows.
SHOWN = 2000


@dataclass
class Exchange:
    """A request, its answer, the statements between them, and the tracebacks that the service logged."""

    request: str
    response: TestResponse | None = None
    statements: list[QueryEvent] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"last request: {self.request}"]
        if self.response is not None:
            lines += [f"  answered with {self.response.status}", f"  {self.response.text[:SHOWN]}"]
        lines += [f"  {event.duration * 1000:6.2f} ms  {text_of(event.sql)[:SHOWN]}" for event in self.statements]
        return "\n".join([*lines, *self.errors])


_last: Exchange | None = None


def last_exchange() -> str:
    """Return the last exchange of the running test, as text for a failure."""
    return str(_last or "no request was sent")


def forget_exchange() -> None:
    """Begin a test that has sent nothing yet."""
    global _last  # noqa: PLW0603 - one test runs at a time in a process.
    _last = None


class _Tracebacks(logging.Handler):
    """Keeps the tracebacks that the service logs: a 500 says nothing of its cause to a client."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0]:
            self._kept.append(logging.Formatter().formatException(record.exc_info))


@contextmanager
def _recorded(method: str, path: str) -> Iterator[Exchange]:
    global _last  # noqa: PLW0603
    _last = exchange = Exchange(f"{method} {path}")
    handler = _Tracebacks(exchange.errors)
    logging.getLogger().addHandler(handler)
    try:
        with noted() as exchange.statements:
            yield exchange
    finally:
        logging.getLogger().removeHandler(handler)


def as_json(value: object) -> bytes:
    """Return `value` as JSON text. Decimals become numbers with all their digits; dates and UUIDs become strings."""
    # json writes no Decimal as a number; as a string it is marked, and loses the quotes afterwards.
    mark = uuid4().hex

    def plain(inner: object) -> str:
        if isinstance(inner, Decimal) and inner.is_finite():
            return f"{mark}{inner:f}"
        if isinstance(inner, date):
            return inner.isoformat()
        if isinstance(inner, UUID):
            return str(inner)
        raise TypeError(f"{inner!r} has no JSON form; send the text that you mean with `request`")

    return re.sub(f'"{mark}(.*?)"', r"\1", json.dumps(value, default=plain, ensure_ascii=False)).encode()


class ApiClient:
    """Sends requests to the application as a client would, through WSGI, with WSGI's rules checked (lint)."""

    def __init__(self, app: Any, credentials: Callable[[Any], dict[str, str]] = binding.credentials) -> None:
        self._app = TestApp(app, lint=True)
        self._credentials = credentials

    def get(self, path: str, *, user: Any = None, status: int = 200, **headers: str) -> TestResponse:
        """Send GET; see `request`."""
        return self.request("GET", path, b"", user=user, status=status, **headers)

    def post(self, path: str, body: object, *, user: Any = None, status: int = 201, **headers: str) -> TestResponse:
        """Send POST with `body` as JSON; see `request`."""
        return self.request("POST", path, as_json(body), user=user, status=status, **headers)

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        user: Any = None,
        status: int | str,
        content_type: str | None = "application/json",
        **headers: str,
    ) -> TestResponse:
        """Send any request.

        Args:
            method: The method, also one that the path does not have.
            path: Path and query; what is not ASCII is sent as a browser sends it, percent-encoded UTF-8.
            body: The body as it is sent.
            user: Who sends it; None for nobody.
            status: The expected status, or ``*`` for any; another one fails the test.
            content_type: Of the body, when there is one.
            headers: Further headers, underscores standing for hyphens.
        """
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body and content_type is not None:
            sent["Content-Type"] = content_type
        if user is not None:
            sent = self._credentials(user) | sent
        path = "".join(each if each.isascii() else quote(each, errors="surrogatepass") for each in path)
        if binding.REQUESTS_CLOSE and not binding.database().is_closed():
            # In production each request begins without a connection. The test's own would be in the way.
            binding.database().close()
        with _recorded(method, path) as exchange:
            with spending("requests"):
                response = self._app.request(path, method=method, body=body, headers=sent, status="*")
            exchange.response = response
        with spending("contract checks"):
            contract.check(method, path, response)
        # Checked here and not by WebTest, so that a failure comes after the exchange has been recorded.
        if status not in ("*", response.status_int):
            raise AssertionError(f"{method} {path} was answered with {response.status}, not with {status}")
        return response
