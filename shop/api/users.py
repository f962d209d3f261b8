"""The resources of ``/users``, ``/users/login``, ``/users/{user_id}`` and ``/users/{user_id}/orders``."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

import falcon

from shop.api import response_schemas, responses, schemas
from shop.api.context import Request
from shop.api.operations import Success, operation
from shop.domain import accounts, orders
from shop.domain.rate_limit import LoginRateLimit
from shop.errors import EmailExists, FieldError, InvalidCredentials, TooManyAttempts, UserNotFound, ValidationFailed
from shop.security.cursors import Cursors, Position
from shop.security.passwords import Passwords
from shop.security.tokens import Tokens


@dataclass(eq=False)
class UsersResource:
    """``/users``."""

    passwords: Passwords
    clock: Callable[[], datetime]

    @operation(
        "registerUser",
        body=schemas.Registration,
        success=Success(201, "The user", response_schemas.User, ("Location",)),
        errors=(EmailExists,),
        is_public=True,
        slot=lambda resource: resource.passwords.slot(),
    )
    def on_post(self, _request: Request, response: falcon.Response, body: schemas.Registration) -> None:
        """Register a user."""
        account = accounts.register(
            self.passwords, name=body.name, email=body.email, password=body.password, now=self.clock()
        )
        response.status = falcon.HTTP_201
        response.location = f"/users/{account.id}"
        responses.write(response, responses.user(account))


@dataclass(eq=False)
class LoginResource:
    """``/users/login``."""

    passwords: Passwords
    rate_limit: LoginRateLimit
    tokens: Tokens
    clock: Callable[[], datetime]

    @operation(
        "logIn",
        body=schemas.Login,
        success=Success(200, "The user and a token", response_schemas.Session),
        errors=(InvalidCredentials, TooManyAttempts),
        is_public=True,
        slot=lambda resource: resource.passwords.slot(),
    )
    def on_post(self, _request: Request, response: falcon.Response, body: schemas.Login) -> None:
        """Exchange e-mail address and password for a token."""
        account, actor = accounts.authenticate(
            self.passwords, self.rate_limit, email=body.email, password=body.password, now=self.clock()
        )
        session = {
            "id": account.id,
            "name": account.name,
            "email": account.email,
            "token": self.tokens.issue(actor),
            "tokenType": "Bearer",
            "expiresIn": self.tokens.lifetime,
        }
        responses.write(response, session)


class UserResource:
    """``/users/{user_id}``."""

    @operation("getUser", success=Success(200, "The user", response_schemas.User), errors=(UserNotFound,))
    def on_get(self, request: Request, response: falcon.Response, user_id: str) -> None:
        """Return a user."""
        account = accounts.find(request.context.actor, user_id)
        responses.write(response, responses.user(account))


@dataclass(eq=False)
class UserOrdersResource:
    """``/users/{user_id}/orders``."""

    cursors: Cursors

    @operation(
        "listOrders",
        query=schemas.HistoryQuery,
        success=Success(200, "A page of orders", response_schemas.OrderPage, sometimes=("Link",)),
        errors=(UserNotFound,),
    )
    def on_get(self, request: Request, response: falcon.Response, user_id: str, query: schemas.HistoryQuery) -> None:
        """Return a page of a user's orders, newest first."""
        # A cursor is valid only for the same user and the same filter.
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
            cursor = self.cursors.write(Position(page[-1].created_at, page[-1].id), scope)
            parameters = {"limit": query.limit, "cursor": cursor} | ({"status": query.status} if query.status else {})
            response.append_link(f"/users/{user_id}/orders?{urlencode(parameters)}", "next")
        responses.write(response, {"orders": [responses.order(order) for order in page], "nextCursor": cursor})

    def _position(self, cursor: str | None, scope: str) -> Position | None:
        if cursor is None:
            return None
        try:
            return self.cursors.read(cursor, scope)
        except ValueError as error:
            fault = "must be the nextCursor of a page of this list"
            raise ValidationFailed(f"cursor {fault}", [FieldError("cursor", fault)]) from error
