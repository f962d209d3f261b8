"""The library, as the test kit in `tests.harness` sees it.

Coverage starts before the project is imported, so each function imports what it needs when it is called.
"""

import os
import sys
from typing import Any

NAME = "loans"
PACKAGE = "loans"
PREFIX = "LOANS_TEST_"
LEAST_COVERAGE = 90.0
REQUIREMENTS = ("falcon", "peewee", "psycopg2-binary")
REQUESTS_CLOSE = True
OUTSIDE: set[tuple[int, str | None]] = set()


def database() -> Any:
    """Return the database object."""
    from loans.models import database as pool

    return pool


def point_at(url: str) -> None:
    """Connect the database object to `url` from now on, with the project's own options."""
    from loans.models import connect_to

    connect_to(url)


def models() -> list[type]:
    """Return all models."""
    from loans.models import MODELS

    return MODELS


def make_schema() -> None:
    """Create the schema in the empty database that the database object points at."""
    with database():
        database().create_tables(models())


def fingerprint() -> str:
    """Return a value that changes whenever the schema changes."""
    # The file that declares the tables is the schema.
    from loans import models as declared

    with open(declared.__file__) as file:
        return file.read()


def factories() -> Any:
    """Return the source of generated values."""
    from tests.factories import source

    return source


def make_app(url: str, **overrides: Any) -> Any:
    """Return the WSGI application."""
    from loans.app import create_app

    return create_app(url, **overrides)


def credentials(user: Any) -> dict[str, str]:
    """Return the headers of a request from `user`."""
    return {"X-Api-Key": user.key}


def describe() -> dict[str, Any] | None:
    """Return the OpenAPI document; None, because the example has none of its own."""
    return None


def code_of(response: Any) -> str | None:
    """Return the code of an error; None, because errors have none."""
    return None


def policy() -> None:
    """Return the access matrix; None, because the example has none of its own."""
    return


def serve(url: str, port: int) -> tuple[list[str], dict[str, str], str]:
    """Return the command that serves the database `url` on `port`, its environment, and what it prints when ready."""
    return [sys.executable, "-m", "loans", str(port)], os.environ | {"LOANS_DATABASE_URL": url}, "listening on port"


def embedded() -> None:
    """Return a PostgreSQL server that needs no installation; None, because the example has none of its own."""
    return
