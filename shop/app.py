"""The application: settings in, a WSGI callable out. Everything is wired here, once."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import falcon

from shop.api import health, middleware, orders, problems, responses, users
from shop.api.context import Observer, Request
from shop.api.cors import Cors
from shop.api.openapi import page as docs
from shop.api.openapi.description import describe
from shop.domain.throttle import Throttle
from shop.security.cursors import Cursors
from shop.security.passwords import Passwords
from shop.security.tokens import Tokens
from shop.settings import Settings
from shop.storage.database import database


def utc_now() -> datetime:
    """Return the current time, aware."""
    return datetime.now(UTC)


class Parts(NamedTuple):
    """What the resources are made with."""

    passwords: Passwords
    throttle: Throttle
    tokens: Tokens
    cursors: Cursors
    clock: Callable[[], datetime]
    is_draining: Callable[[], bool]


def never() -> bool:
    """Return that the service is not about to stop."""
    return False


def create_app(
    settings: Settings,
    *,
    clock: Callable[[], datetime] = utc_now,
    is_draining: Callable[[], bool] = never,
    observer: Observer | None = None,
) -> falcon.App[Any, Any]:
    """Return the service as a WSGI application.

    Args:
        settings: Where the database is, the keys, the limits.
        clock: Returns the current time, aware; tests bring their own.
        is_draining: Tells whether the service is about to stop, and so wants no further traffic.
        observer: Logs and counts requests; None for neither.

    Raises:
        ValueError: `settings` lacks the database's URL or the secret key.
    """
    parts = make_parts(settings, clock, is_draining, observer)
    database.configure(settings)
    app: falcon.App[Any, Any] = falcon.App(
        middleware=[
            middleware.RequestId(),
            *([observer] if observer else []),
            *([Cors(settings.cors_origins)] if settings.cors_origins else []),
            middleware.CloseWhileDraining(is_draining),
            middleware.WaitLimit(settings.queue_timeout, clock),
            middleware.RequestTarget(),
            middleware.BodyLimit(settings.max_body),
            middleware.Authentication(parts.tokens),
        ],
        request_type=Request,
        response_type=responses.Response,
    )
    problems.install(app)
    for template, resource in make_routes(parts).items():
        app.add_route(template, resource)
    return app


def make_parts(
    settings: Settings,
    clock: Callable[[], datetime] = utc_now,
    is_draining: Callable[[], bool] = never,
    observer: Observer | None = None,
) -> Parts:
    """Return what the resources are made with; arguments and errors as for `create_app`."""
    if settings.secret_key is None:
        raise ValueError("settings.secret_key is required")
    keys = settings.secret_key.get_secret_value(), [key.get_secret_value() for key in settings.secret_key_fallbacks]
    passwords = Passwords(
        time_cost=settings.argon2_time_cost,
        memory_cost=settings.argon2_memory_cost,
        parallelism=settings.argon2_parallelism,
        # The other threads answer requests that need no hash.
        places=max(1, settings.threads - max(1, settings.threads // 8)),
        note=observer.count_hashing if observer else lambda _: None,
    )
    throttle = Throttle(max_failures=settings.login_max_failures, window=settings.login_window)
    tokens = Tokens(*keys, lifetime=settings.token_ttl, clock=clock)
    return Parts(passwords, throttle, tokens, Cursors(*keys), clock, is_draining)


def make_routes(parts: Parts) -> dict[str, object]:
    """Return the route table: every URL template with the resource that answers there."""
    routes: dict[str, object] = {
        "/users": users.UserCollection(parts.passwords, parts.clock),
        "/users/login": users.Login(parts.passwords, parts.throttle, parts.tokens, parts.clock),
        "/users/{user_id}": users.UserItem(),
        "/users/{user_id}/orders": users.UserOrders(parts.cursors),
        "/orders": orders.OrderCollection(parts.clock),
        "/orders/{order_id}": orders.OrderItem(parts.clock),
        "/orders/{order_id}/events": orders.OrderEvents(),
        "/livez": health.Liveness(),
        "/readyz": health.Readiness(parts.is_draining),
        "/openapi.json": docs.Description(lambda: describe(routes)),
        "/docs": docs.Page(),
        "/docs/{asset}": docs.Asset(),
    }
    for resource in routes.values():
        _answer_head(resource)
    return routes


def _answer_head(resource: Any) -> None:
    """Let HEAD work wherever GET does (RFC 9110, section 9.3.2); Falcon leaves out the body."""
    if hasattr(resource, "on_get") and not hasattr(resource, "on_head"):
        resource.on_head = resource.on_get
