"""``/users``, ``/users/login``, ``/users/{user_id}`` and ``/users/{user_id}/orders``."""

from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlencode

import falcon

from shop.api import responses, schemas
from shop.api.context import Request
from shop.api.openapi import documents
from shop.api.operations import Success, operation
from shop.domain import accounts, orders
from shop.domain.throttle import Throttle
from shop.errors import (
    EmailExists,
    FieldError,
    InvalidCredentials,
    TooManyAttempts,
    UserNotFound,
    ValidationFailed,
)
from shop.security.cursors import Cursors, Position
from shop.security.passwords import Passwords
from shop.security.tokens import Tokens


class UserCollection:
    """``/users``"""

    def __init__(self, passwords: Passwords, clock: Callable[[], datetime]) -> None:
        self._passwords = passwords
        self._clock = clock

    @operation(
        "registerUser",
        "Register a user",
        body=schemas.Registration,
        success=Success(201, "The user", documents.User, ("Location",)),
        errors=(EmailExists,),
        is_public=True,
        within=lambda users: users._passwords.place(),
    )
    def on_post(self, _request: Request, response: falcon.Response, body: schemas.Registration) -> None:
        """Register a user."""
        account = accounts.register(
            self._passwords, name=body.name, email=body.email, password=body.password, now=self._clock()
        )
        response.status = falcon.HTTP_201
        response.location = f"/users/{account.id}"
        responses.write(response, responses.user(account))


class Login:
    """``/users/login``"""

    def __init__(self, passwords: Passwords, throttle: Throttle, tokens: Tokens, clock: Callable[[], datetime]) -> None:
        self._passwords = passwords
        self._throttle = throttle
        self._tokens = tokens
        self._clock = clock

    @operation(
        "logIn",
        "Exchange e-mail address and password for a token",
        body=schemas.Login,
        success=Success(200, "The user and a token", documents.Session),
        errors=(InvalidCredentials, TooManyAttempts),
        is_public=True,
        within=lambda login: login._passwords.place(),
    )
    def on_post(self, _request: Request, response: falcon.Response, body: schemas.Login) -> None:
        """Exchange e-mail address and password for a token."""
        account, actor = accounts.authenticate(
            self._passwords, self._throttle, email=body.email, password=body.password, now=self._clock()
        )
        token = {
            "id": account.id,
            "name": account.name,
            "email": account.email,
            "token": self._tokens.issue(actor),
            "tokenType": "Bearer",
            "expiresIn": self._tokens.lifetime,
        }
        responses.write(response, token)


class UserItem:
    """``/users/{user_id}``"""

    @operation("getUser", "Return a user", success=Success(200, "The user", documents.User), errors=(UserNotFound,))
    def on_get(self, request: Request, response: falcon.Response, user_id: str) -> None:
        """Return a user."""
        account = accounts.find(request.context.actor, user_id)
        responses.write(response, responses.user(account))


class UserOrders:
    """``/users/{user_id}/orders``"""

    def __init__(self, cursors: Cursors) -> None:
        self._cursors = cursors

    @operation(
        "listOrders",
        "Return a page of a user's orders, newest first",
        query=schemas.HistoryQuery,
        success=Success(200, "A page of orders", documents.OrderPage, sometimes=("Link",)),
        errors=(UserNotFound,),
    )
    def on_get(self, request: Request, response: falcon.Response, user_id: str, query: schemas.HistoryQuery) -> None:
        """Return a page of a user's orders, newest first."""
        # A cursor leads on in this list only: of this user, with this filter.
        scope = f"{user_id.lower()} {query.status}"
        page, has_more = orders.list_for(
            request.context.actor,
            user_id,
            status=query.status,
            after=self._position(query.cursor, scope),
            limit=query.limit,
        )
        cursor = None
        if has_more:
            cursor = self._cursors.write(Position(page[-1].created_at, page[-1].id), scope)
            again = {"limit": query.limit, "cursor": cursor} | ({"status": query.status} if query.status else {})
            response.append_link(f"/users/{user_id}/orders?{urlencode(again)}", "next")
        responses.write(response, {"orders": [responses.order(order) for order in page], "nextCursor": cursor})

    def _position(self, cursor: str | None, scope: str) -> Position | None:
        if cursor is None:
            return None
        try:
            return self._cursors.read(cursor, scope)
        except ValueError as error:
            fault = "must be the nextCursor of a page of this list"
            raise ValidationFailed(f"cursor {fault}", [FieldError("cursor", fault)]) from error
