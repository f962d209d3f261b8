"""Settings and tokens of the shop under test. Nothing of the caller's environment leaks in."""

import os
from collections.abc import Callable
from datetime import datetime
from functools import cache, lru_cache
from unittest import mock

from pydantic import SecretStr

from shop.app import utc_now
from shop.domain.models import User
from shop.security.tokens import Actor, Tokens
from shop.settings import Settings

SECRET_KEY = "a key that only the tests know, 32 bytes and more"


def make_settings(url: str | SecretStr, **overrides: object) -> Settings:
    """Return settings for an application under test, with cheap hashing.

    Args:
        url: The database's URL.
        overrides: Other settings.
    """
    defaults = {
        "database_url": SecretStr(url) if isinstance(url, str) else url,
        "secret_key": SecretStr(SECRET_KEY),
        "argon2_time_cost": 1,
        "argon2_memory_cost": 8,
        # As many as a test has at once: half of them may hash.
        "threads": 100,
    }
    return _load(tuple(sorted((defaults | overrides).items())))


@lru_cache(100)
def _load(options: tuple[tuple[str, object], ...]) -> Settings:
    """Return settings with these options, without the environment. They are immutable and take a while to make."""
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("SHOP_")]:
            del os.environ[name]
        return Settings.load(**dict(options))


def live_settings(url: str) -> dict[str, str]:
    """Return the same for a server in a process of its own, as environment variables."""
    return {
        "SHOP_DATABASE_URL": url,
        "SHOP_SECRET_KEY": SECRET_KEY,
        "SHOP_ARGON2_TIME_COST": "1",
        "SHOP_ARGON2_MEMORY_COST": "8",
    }


def credentials_for(settings: Settings, clock: Callable[[], datetime] = utc_now) -> Callable[[User], dict[str, str]]:
    """Return a function that returns the headers of a request from a user, with a token as a log-in would issue it."""
    assert settings.secret_key is not None
    tokens = Tokens(settings.secret_key.get_secret_value(), (), lifetime=settings.token_ttl, clock=clock)

    @cache  # Like a client, it keeps the first.
    def token(actor: Actor) -> str:
        return tokens.issue(actor)

    return lambda user: {"Authorization": f"Bearer {token(Actor(str(user.id), user.role))}"}


@cache
def default_credentials() -> Callable[[User], dict[str, str]]:
    """Return the same for the settings that an application under test has by default."""
    return credentials_for(make_settings("postgresql:///"))
