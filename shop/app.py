"""The application: settings in, a WSGI callable out. Everything is wired here, once."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import falcon

from shop.api import health, middleware, orders, problems, users
from shop.database import database
from shop.passwords import Passwords
from shop.settings import Settings
from shop.tokens import Tokens


def utc_now() -> datetime:
    """Return the current time, aware."""
    return datetime.now(UTC)


def create_app(settings: Settings, *, clock: Callable[[], datetime] = utc_now) -> falcon.App[Any, Any]:
    """Return the service as a WSGI application.

    Args:
        settings: Where the database is, the keys, the limits.
        clock: Returns the current time, aware; tests bring their own.

    Raises:
        ValueError: `settings` lacks the database's URL or the secret key.
    """
    if settings.secret_key is None:
        raise ValueError("settings.secret_key is required")
    database.configure(settings)
    passwords = Passwords(
        time_cost=settings.argon2_time_cost,
        memory_cost=settings.argon2_memory_cost,
        parallelism=settings.argon2_parallelism,
    )
    tokens = Tokens(
        settings.secret_key.get_secret_value(),
        [key.get_secret_value() for key in settings.secret_key_fallbacks],
        lifetime=settings.token_ttl,
        clock=clock,
    )

    app: falcon.App[Any, Any] = falcon.App(
        middleware=[middleware.RequestId(), middleware.OnePathEach(), middleware.Authentication(tokens)]
    )
    problems.install(app)
    routes: dict[str, object] = {
        "/users": users.UserCollection(passwords, clock, settings.max_body),
        "/users/login": users.Login(passwords, tokens, settings.max_body),
        "/users/{user_id}": users.UserItem(),
        "/orders": orders.OrderCollection(clock, settings.max_body),
        "/orders/{order_id}": orders.OrderItem(),
        "/livez": health.Liveness(),
        "/readyz": health.Readiness(),
    }
    for template, resource in routes.items():
        _answer_head(resource)
        app.add_route(template, resource)
    return app


def _answer_head(resource: Any) -> None:
    """Let HEAD work wherever GET does (RFC 9110, section 9.3.2); Falcon leaves out the body."""
    if hasattr(resource, "on_get") and not hasattr(resource, "on_head"):
        resource.on_head = resource.on_get
