"""A client of the API in the same process: WebTest with our JSON, our tokens, and the status in the call."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from peewee import QueryEvent
from webtest import TestApp, TestResponse

from shop import exactjson
from shop.domain.models import User
from shop.security.tokens import Actor, Tokens
from shop.storage.database import database
from shop.storage.statements import is_prepare, statement_text
from tests.harness import contract
from tests.harness.findings import spending

# To unittest the frames of this module are its own: a traceback ends in the test.
__unittest = True
# Characters of a body or a statement that a failure shows.
SHOWN = 2000


@dataclass
class Exchange:
    """A request, its answer, and the statements between them."""

    request: str
    response: TestResponse | None = None
    statements: list[QueryEvent] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"last request: {self.request}"]
        if self.response is not None:
            lines += [f"  answered with {self.response.status}", f"  {self.response.text[:SHOWN]}"]
        lines += [
            f"  {event.duration * 1000:6.2f} ms  {statement_text(event.sql)[:SHOWN]}" for event in self.statements
        ]
        return "\n".join(lines)


_last: Exchange | None = None


def last_exchange() -> str:
    """Return the last exchange of the running test, as text for a failure."""
    return str(_last or "no request was sent")


def forget_exchange() -> None:
    """Begin a test that has sent nothing yet."""
    global _last  # noqa: PLW0603 - one test runs at a time in a process.
    _last = None


@contextmanager
def _recorded(method: str, path: str) -> Iterator[Exchange]:
    global _last  # noqa: PLW0603
    _last = exchange = Exchange(f"{method} {path}")

    def note(event: QueryEvent) -> None:
        if not is_prepare(event.sql):
            exchange.statements.append(event)

    database.query_hooks.append(note)
    try:
        yield exchange
    finally:
        database.query_hooks.remove(note)


class ApiClient:
    """Sends requests to the application as a client would, through WSGI, with WSGI's rules checked (lint).

    Args:
        app: The application.
        tokens: Signs the tokens of the users that requests are sent as.
    """

    def __init__(self, app: Any, tokens: Tokens) -> None:
        self._app = TestApp(app, lint=True)
        self._tokens = tokens
        self._issued: dict[Actor, str] = {}

    def get(self, path: str, *, user: User | None = None, status: int = 200, **headers: str) -> TestResponse:
        """Send GET; see `request`."""
        return self.request("GET", path, user=user, status=status, **headers)

    def post(
        self, path: str, body: object, *, user: User | None = None, status: int = 201, **headers: str
    ) -> TestResponse:
        """Send POST with `body` as JSON; see `request`."""
        return self.request("POST", path, exactjson.dumps(body), user=user, status=status, **headers)

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        user: User | None = None,
        status: int | str,
        content_type: str | None = "application/json",
        **headers: str,
    ) -> TestResponse:
        """Send any request.

        Args:
            method: The method, also one that the path does not have.
            path: Path and query.
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
            sent.setdefault("Authorization", f"Bearer {self.token(user)}")
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

    def token(self, user: User) -> str:
        """Return a token for `user`, as a log-in would issue it; like a client, it keeps the first."""
        actor = Actor(str(user.id), user.role)
        if actor not in self._issued:
            self._issued[actor] = self._tokens.issue(actor)
        return self._issued[actor]
