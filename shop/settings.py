"""The service's settings, read from ``SHOP_*`` environment variables. Nothing else reads the environment."""

import difflib
import os
import re
from collections.abc import Container
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "SHOP_"
# RFC 7518, section 3.2: an HS256 key has at least as many bits as the hash.
MIN_KEY_BYTES = 32
# Kubernetes sets variables for each Service in every container. For Services named `shop` or `shop-…` they have our
# prefix: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://.+:[0-9]+", re.IGNORECASE)
_SERVICE_VARIABLE = re.compile(
    r"SHOP_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)"
)
# Variables that only the tests or compose.yaml read.
_VARIABLE_OF_OTHERS = re.compile(r"SHOP_(TEST_\w+|(\w+_)?IMAGE|PUBLISH|STOP_GRACE_PERIOD)")
# The header Origin as browsers send it (RFC 6454, section 6.2).
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def _separated(value: object) -> object:
    """Split the text of a variable at its commas."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _key(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value().encode()) < MIN_KEY_BYTES:
        raise ValueError(f"must have at least {MIN_KEY_BYTES} bytes")
    return key


def _postgres_url(url: SecretStr) -> SecretStr:
    scheme, separator, rest = url.get_secret_value().partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ValueError("must be a URL that begins with postgresql://")
    try:
        parse_dsn(f"postgresql://{rest}")
    except ProgrammingError:
        # libpq's own message contains the URL with its password.
        raise ValueError("is not a URL that PostgreSQL's client library understands") from None
    return SecretStr(f"postgresql://{rest}")


def _network(text: object) -> object:
    try:
        return ip_network(text) if isinstance(text, str) else text
    except ValueError as error:
        # This includes ambiguous values: 10.0.0.1/8 is an address with the size of a network.
        raise ValueError(f"must be addresses or networks, separated by commas: {error}") from None


def _origin(text: str) -> str:
    origin = text.lower()
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(
            "must be origins such as https://shop.example.com, without a path or *, separated by commas; "
            f"{origin!r} is not an origin"
        )
    # Browsers omit the scheme's default port.
    return re.sub(r"^(http(?=://.*:80$)|https(?=://.*:443$))(.*):[0-9]+$", r"\1\2", origin)


Key = Annotated[SecretStr, AfterValidator(_key)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Origin = Annotated[str, AfterValidator(_origin)]
SEPARATED = BeforeValidator(_separated)


class SettingsError(Exception):
    """A setting is missing or invalid. The message names its variable, and never contains a secret."""


class Settings(BaseSettings):
    """What an operator can set; the text below each field is the one of docs/settings.md.

    Secrets are `SecretStr`, so that neither a repr nor a log line shows them.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")
    _options: frozenset[str] = PrivateAttr(frozenset())

    database_url: Annotated[SecretStr, AfterValidator(_postgres_url)] | None = None
    """PostgreSQL to use, `postgresql://…`; when unset, the embedded one is started"""
    environment: str | None = None
    """the name of this deployment; in `production`, `scripts/seed_demo.py` refuses to run"""
    data_dir: Path | None = None
    """where the embedded PostgreSQL keeps its data and the secret key; when unset, `.shop` in the checkout (root: below
    `/var/lib/shop`), or the user's data directory if installed"""
    secret_key: Key | None = None
    """key that signs tokens, at least 32 bytes; required with `SHOP_DATABASE_URL`, otherwise generated
    once and saved in the data directory"""
    secret_key_fallbacks: Annotated[tuple[Key, ...], NoDecode, SEPARATED] = ()
    """former keys, separated by commas: they verify tokens but do not sign new ones"""
    token_ttl: int = Field(3600, ge=1, le=31_536_000)
    """how long a token is valid, in seconds"""
    host: str = "127.0.0.1"
    """address to listen on"""
    port: int = Field(8000, ge=1, le=65535)
    """port to listen on"""
    workers: int = Field(2, ge=1, le=256)
    """worker processes"""
    threads: int = Field(72, ge=1, le=512)
    """threads of each worker; a request that waits for a password hash holds one"""
    database_connections: int = Field(8, ge=1, le=256)
    """database connections of each worker, at most"""
    max_body: int = Field(1_048_576, ge=1)
    """maximum length of a request body, in bytes"""
    queue_timeout: int = Field(10, ge=1, le=600)
    """timeout of a request in the queue, in seconds: if `X-Request-Start`, which the front sets, is older, the response
    is a 503"""
    drain_seconds: int = Field(0, ge=0, le=600)
    """how long the service still serves, but is not ready, before it stops, in seconds; it should be longer than the
    interval at which the load balancer checks `/readyz`"""
    login_max_failures: int = Field(10, ge=0)
    """login rate limit: after so many failures for one account, further logins are rejected without checking the
    password; 0 is no limit"""
    login_window: int = Field(900, ge=0, le=31_536_000)
    """window of the login rate limit, in seconds from the first failure; 0 is no limit"""
    argon2_time_cost: int = Field(2, ge=1)
    """Argon2id passes over the memory"""
    argon2_memory_cost: int = Field(19_456, ge=8)
    """Argon2id memory for one hash, in KiB"""
    argon2_parallelism: int = Field(1, ge=1)
    """Argon2id lanes"""
    connect_timeout: int = Field(5, ge=2)
    """timeout for a database connection, in seconds"""
    statement_timeout: int = Field(10, ge=1)
    """timeout of an SQL statement, in seconds"""
    lock_timeout: int = Field(5, ge=1)
    """timeout for a lock on a row or table, in seconds"""
    prepared_statements: bool = True
    """whether statements are prepared, once per connection; `0` behind PgBouncer in transaction mode, which loses
    them"""

    log_format: Literal["json", "text"] | None = None
    """`json`, one object per line, or `text`, for people; when unset, `text` if stderr is a terminal, otherwise
    `json`"""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """lowest level that is logged: `debug`, `info`, `warning` or `error`; a request is `info`, `warning` with a 503,
    `error` with a 500"""
    slow_query_ms: int = Field(500, ge=0)
    """a statement that takes this many milliseconds is logged, without its values; 0 turns that off"""
    metrics_port: int | None = Field(None, ge=1, le=65535)
    """port that serves `/metrics` for Prometheus; when unset, there are no metrics"""
    metrics_host: str = "127.0.0.1"
    """address that serves the metrics; reading them needs no token"""
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, SEPARATED] = ()
    """addresses or networks, separated by commas, of the proxies whose `X-Forwarded-For` is trusted; the address is
    only logged"""

    cors_origins: Annotated[tuple[Origin, ...], NoDecode, SEPARATED] = ()
    """origins, separated by commas, whose pages may call the API from a browser, such as `https://shop.example.com`"""

    webhook_allow_http: bool = False
    """whether webhooks may be sent to `http://` URLs; otherwise only to `https://`"""
    webhook_allow_private: bool = False
    """whether webhooks may be sent to private, loopback and link-local addresses; otherwise only to the public
    internet"""

    @field_validator("port", "metrics_port", mode="before")
    @classmethod
    def _ignore_service_link(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and _SERVICE_LINK.fullmatch(value):
            return cls.model_fields[info.field_name or ""].default
        return value

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Read the environment. `overrides`, the options of a command, take precedence unless they are None.

        Raises:
            SettingsError: Variables or options are invalid; the message names all of them.
        """
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        try:
            settings = cls(**given)
        except ValidationError as error:
            faults = "; ".join(
                f"{_spelled(str(fault['loc'][0]), given)} {_predicate(fault['msg'])}"
                for fault in error.errors(include_input=False, include_url=False)
            )
            # Without the cause: its message contains the input, which may be a secret.
            raise SettingsError(faults) from None
        settings._options = frozenset(given)
        return settings

    def given_as(self, name: str) -> str:
        """Return how the user has set a setting: the name of the option or of the variable."""
        return _spelled(name, self._options)


def unused_variables() -> list[str]:
    """Return a warning for each environment variable that looks like a setting and is ignored."""
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    sentences = []
    # As in `Settings`: names are not case-sensitive, and empty variables are ignored.
    for name, value in sorted((name.upper(), value) for name, value in os.environ.items() if value):
        if name in settings:
            if _SERVICE_VARIABLE.fullmatch(name) and _SERVICE_LINK.fullmatch(value):
                sentences.append(f"{name} is ignored: {value} is the address of a Kubernetes Service, and not a port")
        elif name.startswith(PREFIX) and not (_SERVICE_VARIABLE.fullmatch(name) or _VARIABLE_OF_OTHERS.fullmatch(name)):
            closest = difflib.get_close_matches(name, settings, n=1)
            hint = f"; did you mean {closest[0]}?" if closest else ""
            sentences.append(f"{name} is not a setting and is ignored{hint}")
    return sentences


def _spelled(name: str, options: Container[str]) -> str:
    return f"--{name.replace('_', '-')}" if name in options else PREFIX + name.upper()


def _predicate(message: str) -> str:
    """Rewrite a message of pydantic so that it can follow the name of the variable."""
    return message.removeprefix("Value error, ").replace("Input should", "should", 1)
