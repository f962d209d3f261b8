"""A client of the API in the same process: WebTest with our JSON, our tokens, and the status in the call."""

from typing import Any

from webtest import TestApp, TestResponse

from shop import exactjson
from shop.models import User
from shop.tokens import Actor, Tokens


class ApiClient:
    """Sends requests to the application as a client would, through WSGI, with WSGI's rules checked (lint).

    Args:
        app: The application.
        tokens: Signs the tokens of the users that requests are sent as.
    """

    def __init__(self, app: Any, tokens: Tokens) -> None:
        self._app = TestApp(app, lint=True)
        self._tokens = tokens

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
        status: int,
        content_type: str | None = "application/json",
        **headers: str,
    ) -> TestResponse:
        """Send any request.

        Args:
            method: The method, also one that the path does not have.
            path: Path and query.
            body: The body as it is sent.
            user: Who sends it; None for nobody.
            status: The expected status; another one fails the test and shows the response.
            content_type: Of the body, when there is one.
            headers: Further headers, underscores standing for hyphens.
        """
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body and content_type is not None:
            sent["Content-Type"] = content_type
        if user is not None:
            sent.setdefault("Authorization", f"Bearer {self.token(user)}")
        return self._app.request(path, method=method, body=body, headers=sent, status=status)

    def token(self, user: User) -> str:
        """Return a token for `user`, as a log-in would issue it."""
        return self._tokens.issue(Actor(str(user.id), user.role))
