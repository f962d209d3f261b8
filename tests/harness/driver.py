"""The driver, as the code under test meets it while tests run: `psycopg2.connect` is replaced, and nothing else.

Inside a sandbox it returns connections that share one real connection (`tests.harness.connections`). Outside, it
returns real connections that note what they are used for (`tests.harness.guard`).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import psycopg2
from psycopg2 import extensions
from psycopg2.extensions import parse_dsn

real_connect: Callable[..., Any] = psycopg2.connect
# They change how a connection is made and named, and nothing that a statement sees.
_HARMLESS = ("application_name", "connect_timeout", "password", "sslmode", "tcp_user_timeout", "client_encoding")


# Make connections in place of the driver: functions of the parameters, the connection factory, and whether the
# connection is to be asynchronous. They return None for a connection that they leave to others.
Replacement = Callable[[dict[str, str], Any, bool], extensions.connection | None]
_replacements: list[Replacement] = []


def install(replacement: Replacement) -> None:
    """Have `replacement` make all connections from now on, before those that were installed earlier."""
    _replacements.append(replacement)
    psycopg2.connect = _connect


def uninstall(replacement: Replacement) -> None:
    """Undo `install`."""
    _replacements.remove(replacement)
    if not _replacements:
        psycopg2.connect = real_connect


def _connect(dsn: str | None = None, connection_factory: Any = None, cursor_factory: Any = None, **options: Any) -> Any:
    is_async = bool(options.get("async") or options.get("async_"))
    parameters = parse(dsn, **{key: value for key, value in options.items() if key not in ("async", "async_")})
    for replacement in reversed(_replacements):
        made = replacement(parameters, connection_factory, is_async)
        if made is not None:
            if cursor_factory is not None:
                made.cursor_factory = cursor_factory
            return made
    return real_connect(dsn, connection_factory, cursor_factory, **options)


@lru_cache(64)
def parse(dsn: str | None = None, **options: Any) -> dict[str, str]:
    """Return libpq's parameters of a connection. Nobody may change them."""
    parsed: dict[str, str] = parse_dsn(extensions.make_dsn(dsn, **options))
    return parsed


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the names of the parameters that make a difference to statements and are not the same."""
    names = (one.keys() | other.keys()) - set(_HARMLESS)
    return sorted(name for name in names if one.get(name) != other.get(name) and not name.startswith("keepalives"))
