"""This project, as the test kit in `tests.harness` sees it. Nothing else in the kit knows the project.

Coverage starts before the project is imported, so each function imports what it needs when it is called.
"""

from collections.abc import Mapping
from typing import Any

NAME = "shop"
PACKAGE = "shop"
PREFIX = "SHOP_TEST_"
LEAST_COVERAGE = 95.0
REQUIREMENTS = ("falcon", "peewee", "psycopg2-binary", "pydantic", "granian", "mimesis", "testcontainers", "WebTest")
# The service keeps one connection for each thread.
REQUESTS_CLOSE = False
# Answers that belong to no operation: the API has no such path or method.
OUTSIDE = {
    (400, "BAD_REQUEST"),
    (404, "NOT_FOUND"),
    (405, "METHOD_NOT_ALLOWED"),
    (413, "PAYLOAD_TOO_LARGE"),
}


def database() -> Any:
    """Return the service's database object."""
    from shop.storage.database import database as service_database

    return service_database


def point_at(url: str) -> None:
    """Connect the database object to `url` from now on, with the service's own options."""
    from tests.support.settings import make_settings

    database().configure(make_settings(url))


def models() -> list[type]:
    """Return all models."""
    from shop.domain.models import LoginFailures, Order, User, WebhookDelivery, WebhookEndpoint

    return [User, Order, LoginFailures, WebhookEndpoint, WebhookDelivery]


def make_schema() -> None:
    """Create the schema in the empty database that the database object points at."""
    from shop.storage import migrations

    migrations.migrate(database().database)


def fingerprint() -> str:
    """Return a value that changes whenever the schema changes."""
    from shop.storage import migrations

    return "".join(path.name + path.read_text("utf-8") for path in sorted(migrations.DIRECTORY.glob("[0-9]*.py")))


def factories() -> Any:
    """Return the source of generated values."""
    from shop.demo.factories import source

    return source


def make_app(url: str, **overrides: Any) -> Any:
    """Return the WSGI application; `overrides` are a clock or settings."""
    from shop.app import create_app, utc_now
    from tests.support.settings import make_settings

    clock = overrides.pop("clock", utc_now)
    return create_app(make_settings(url, **overrides), clock=clock)


def credentials(user: Any) -> dict[str, str]:
    """Return the headers of a request from `user`."""
    from tests.support.settings import default_credentials

    return default_credentials()(user)


def describe() -> dict[str, Any] | None:
    """Return the OpenAPI document."""
    from shop.api.openapi.document import build_openapi
    from shop.app import make_routes
    from tests.support.operations import services

    return build_openapi(make_routes(services()))


def code_of(response: Any) -> str | None:
    """Return the code of an error; None for a success, and where the body is missing (HEAD)."""
    if response.content_type != "application/problem+json" or not response.body:
        return None
    return str(response.json["code"])


def policy() -> Mapping[str, Mapping[str, object]] | None:
    """Return the access matrix: for each operation, what each kind of caller gets."""
    from tests.support.access import policy as access_policy

    return access_policy()


def serve(url: str, port: int) -> tuple[list[str], dict[str, str], str]:
    """Return the command that serves the database `url` on `port`, its environment, and what it prints when ready."""
    from tests.support.live import READY, inherited, serve_command
    from tests.support.settings import live_settings

    return serve_command(port), inherited(measured=True) | live_settings(url), READY


def embedded() -> Any:
    """Start and return a PostgreSQL server for this run."""
    from shop.embedded.server import EmbeddedPostgres

    server = EmbeddedPostgres.throwaway()
    server.start()
    return server
