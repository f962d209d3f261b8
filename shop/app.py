"""Build the WSGI application from the settings. Everything is wired here, once."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import falcon

from shop.api import health, middleware, orders, problems, responses, users
from shop.api.context import Observer, Request
from shop.api.cors import Cors
from shop.api.openapi import page
from shop.api.openapi.document import build_openapi
from shop.domain.rate_limit import LoginRateLimit
from shop.security.cursors import Cursors
from shop.security.passwords import Passwords
from shop.security.tokens import Tokens
from shop.settings import Settings
from shop.storage.database import database


def utc_now() -> datetime:
    """Return the current time, with its time zone."""
    return datetime.now(UTC)


class Services:
    """The objects that the resources share; arguments and errors as for `create_app`."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
        is_draining: Callable[[], bool] = lambda: False,
        observer: Observer | None = None,
    ) -> None:
        if settings.secret_key is None:
            raise ValueError("settings.secret_key is required")
        keys = settings.secret_key.get_secret_value(), [key.get_secret_value() for key in settings.secret_key_fallbacks]
        self.clock = clock
        self.is_draining = is_draining
        self.tokens = Tokens(*keys, lifetime=settings.token_ttl, clock=clock)
        self.cursors = Cursors(*keys)
        self.rate_limit = LoginRateLimit(max_failures=settings.login_max_failures, window=settings.login_window)
        self.passwords = Passwords(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_cost,
            parallelism=settings.argon2_parallelism,
            # The other threads, as many as there are connections, answer requests that need no hash.
            slots=max(1, settings.threads - settings.database_connections),
            on_change=observer.count_hashing if observer else lambda _: None,
        )


def create_app(
    settings: Settings,
    *,
    clock: Callable[[], datetime] = utc_now,
    is_draining: Callable[[], bool] = lambda: False,
    observer: Observer | None = None,
) -> falcon.App[Any, Any]:
    """Return the service as a WSGI application, and configure the database.

    Args:
        settings: The database URL, the keys, the limits.
        clock: Returns the current time, with its time zone; tests pass their own.
        is_draining: Returns whether the service is about to stop and wants no more traffic.
        observer: Logs and counts requests; None for neither.

    Raises:
        ValueError: `settings` has no database URL or no secret key.
    """
    services = Services(settings, clock, is_draining, observer)
    database.configure(settings)
    app: falcon.App[Any, Any] = falcon.App(
        middleware=[
            middleware.RequestId(),
            *([observer] if observer else []),
            *([Cors(settings.cors_origins)] if settings.cors_origins else []),
            middleware.RequestChecks(settings.max_body, settings.queue_timeout, clock, is_draining),
            middleware.Authentication(services.tokens),
        ],
        request_type=Request,
        response_type=responses.Response,
    )
    problems.install(app)
    for template, resource in make_routes(services).items():
        app.add_route(template, resource)
    return app


def make_routes(services: Services) -> dict[str, object]:
    """Return the route table: each URL template with its resource."""
    passwords, clock = services.passwords, services.clock
    routes: dict[str, object] = {
        "/users": users.UsersResource(passwords, clock),
        "/users/login": users.LoginResource(passwords, services.rate_limit, services.tokens, clock),
        "/users/{user_id}": users.UserResource(),
        "/users/{user_id}/orders": users.UserOrdersResource(services.cursors),
        "/orders": orders.OrdersResource(clock),
        "/orders/{order_id}": orders.OrderResource(clock),
        "/orders/{order_id}/events": orders.OrderEventsResource(),
        "/livez": health.LivenessResource(),
        "/readyz": health.ReadinessResource(services.is_draining),
        "/openapi.json": page.OpenApiResource(lambda: build_openapi(routes)),
        "/docs": page.DocsResource(),
        "/docs/{asset}": page.DocsAssetResource(),
    }
    for resource in routes.values():
        _answer_head(resource)
    return routes


def _answer_head(resource: Any) -> None:
    """Answer HEAD wherever GET is answered (RFC 9110, section 9.3.2); Falcon leaves out the body."""
    if hasattr(resource, "on_get") and not hasattr(resource, "on_head"):
        resource.on_head = resource.on_get
