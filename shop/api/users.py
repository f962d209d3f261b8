"""``/users``, ``/users/login`` and ``/users/{user_id}``."""

from collections.abc import Callable
from datetime import datetime

import falcon

from shop import accounts
from shop.api import body, responses, schemas
from shop.passwords import Passwords
from shop.tokens import Tokens


class UserCollection:
    """``/users``"""

    PUBLIC = ("POST",)

    def __init__(self, passwords: Passwords, clock: Callable[[], datetime], max_body: int) -> None:
        self._passwords = passwords
        self._clock = clock
        self._max_body = max_body

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        """Register a user."""
        sent = body.parse(request, schemas.Registration, limit=self._max_body)
        account = accounts.register(
            self._passwords, name=sent.name, email=sent.email, password=sent.password, now=self._clock()
        )
        response.status = falcon.HTTP_201
        response.location = f"/users/{account.id}"
        responses.write(response, responses.user(account))


class Login:
    """``/users/login``"""

    PUBLIC = ("POST",)

    def __init__(self, passwords: Passwords, tokens: Tokens, max_body: int) -> None:
        self._passwords = passwords
        self._tokens = tokens
        self._max_body = max_body

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        """Exchange e-mail address and password for a token."""
        sent = body.parse(request, schemas.Login, limit=self._max_body)
        account, actor = accounts.authenticate(self._passwords, email=sent.email, password=sent.password)
        token = {
            "id": account.id,
            "name": account.name,
            "email": account.email,
            "token": self._tokens.issue(actor),
            "tokenType": "Bearer",
            "expiresIn": self._tokens.lifetime,
        }
        # RFC 6750, section 5.3: nothing on the way may keep a token.
        response.cache_control = ["no-store"]
        responses.write(response, token)


class UserItem:
    """``/users/{user_id}``"""

    def on_get(self, request: falcon.Request, response: falcon.Response, user_id: str) -> None:
        """Return a user."""
        account = accounts.find(request.context.actor, user_id)
        responses.write(response, responses.user(account))
