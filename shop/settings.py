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
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "SHOP_"
# RFC 7518, section 3.2: an HS256 key has at least as many bits as the hash.
MIN_KEY_BYTES = 32
Network = IPv4Network | IPv6Network
# Kubernetes sets variables in every container for each Service. Those of Services named `shop` and `shop-…` begin with
# our prefix: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://.+:[0-9]+", re.IGNORECASE)
_SERVICE_VARIABLE = re.compile(
    r"SHOP_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)"
)
# Variables of the tests, and those that compose.yaml reads.
_VARIABLE_OF_OTHERS = re.compile(r"SHOP_(TEST_\w+|(\w+_)?IMAGE|PUBLISH|STOP_GRACE_PERIOD)")
# RFC 6454, section 6.2, as browsers write it.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


class SettingsError(Exception):
    """A setting is missing or wrong; the text names its variable in one sentence and never holds a secret."""


class Settings(BaseSettings):
    """What an operator can set; each field's description is the text of docs/settings.md.

    Secrets are `SecretStr`, so that neither a repr nor a log line shows them.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")
    _options: frozenset[str] = PrivateAttr(frozenset())

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL to use, `postgresql://…`; when unset, the embedded one is started"
    )
    environment: str | None = Field(
        None, description="what this deployment is; where it is `production`, no demo data is made"
    )
    data_dir: Path | None = Field(
        None,
        description="where the embedded PostgreSQL keeps its data and the secret key; "
        "when unset, `.shop` in the checkout (root: below `/var/lib/shop`), or the user's data directory if installed",
    )
    secret_key: SecretStr | None = Field(
        None,
        description=f"key that signs tokens, at least {MIN_KEY_BYTES} bytes; required beside `SHOP_DATABASE_URL`, "
        "else made once and kept in the data directory",
    )
    secret_key_fallbacks: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="former keys, separated by commas: they still verify tokens but sign none"
    )
    token_ttl: int = Field(3600, ge=1, le=31_536_000, description="how long a token is valid, in seconds")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    workers: int = Field(2, ge=1, le=256, description="worker processes")
    threads: int = Field(
        64,
        ge=1,
        le=512,
        description="threads of each worker; a request that waits for a password hash holds one",
    )
    database_connections: int = Field(8, ge=1, le=256, description="database connections of each worker, at most")
    max_body: int = Field(1_048_576, ge=1, description="longest request body that is read, in bytes")
    queue_timeout: int = Field(
        10,
        ge=1,
        le=600,
        description="longest wait of a request between the front and a thread, in seconds; one whose "
        "`X-Request-Start` says that it has waited longer gets 503",
    )
    drain_seconds: int = Field(
        0,
        ge=0,
        le=600,
        description="how long, before it stops, the service still serves but says that it is not ready, in seconds: a "
        "load balancer needs longer than from one look at `/readyz` to the next",
    )
    login_max_failures: int = Field(
        10, ge=0, description="failed log-ins for one account before further ones are refused unseen; 0 is no limit"
    )
    login_window: int = Field(
        900, ge=0, le=31_536_000, description="how long failed log-ins count, in seconds from the first; 0 is no limit"
    )
    argon2_time_cost: int = Field(2, ge=1, description="Argon2id passes over the memory")
    argon2_memory_cost: int = Field(19_456, ge=8, description="Argon2id memory for one hash, in KiB")
    argon2_parallelism: int = Field(1, ge=1, description="Argon2id lanes")
    connect_timeout: int = Field(5, ge=2, description="longest wait for a database connection, in seconds")
    statement_timeout: int = Field(10, ge=1, description="longest run of one SQL statement, in seconds")
    lock_timeout: int = Field(5, ge=1, description="longest wait for a row or table lock, in seconds")
    prepared_statements: bool = Field(
        True,
        description="whether statements are prepared on the server, once a connection; `0` behind PgBouncer in "
        "transaction mode, which loses them",
    )

    log_format: Literal["json", "text"] | None = Field(
        None,
        description="`json`, an object a line, or `text`, for people; when unset, `text` where stderr is a terminal, "
        "else `json`",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="what is logged at least: `debug`, `info`, `warning` or `error`; a request is `info`, `warning` "
        "with a 503, `error` with a 500",
    )
    slow_query_ms: int = Field(
        500, ge=0, description="from how many milliseconds on a statement is logged, without its values; 0 is never"
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port to serve metrics for Prometheus on, at `/metrics`; when unset, none"
    )
    metrics_host: str = Field(
        "127.0.0.1", description="address to serve the metrics on: whoever reaches it may read them, without a token"
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="addresses or networks, separated by commas, of the proxies whose `X-Forwarded-For` is believed; "
        "it goes into the log and decides nothing",
    )

    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origins, separated by commas, whose pages may call the API from a browser, each as "
        "`https://shop.example.com`",
    )

    @field_validator("port", "metrics_port", mode="before")
    @classmethod
    def _is_no_service_link(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and _SERVICE_LINK.fullmatch(value):
            return cls.model_fields[info.field_name or ""].default
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(filter(None, (part.strip().lower() for part in value.split(","))))
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "must be origins, each as https://shop.example.com, without a path or *, separated by commas: "
                    f"{origin!r} is none"
                )
        # Browsers leave out a port that follows from the scheme.
        return tuple(re.sub(r"^(http(?=://.*:80$)|https(?=://.*:443$))(.*):[0-9]+$", r"\1\2", each) for each in origins)

    webhook_allow_http: bool = Field(
        False, description="whether webhooks may be sent to `http://` URLs; otherwise only to `https://`"
    )
    webhook_allow_private: bool = Field(
        False,
        description="whether webhooks may be sent to private, loopback and link-local addresses; otherwise only to the "
        "public internet",
    )

    @field_validator("database_url")
    @classmethod
    def _is_postgres_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        text = url.get_secret_value()
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in ("postgresql", "postgres"):
            raise ValueError("must be a URL that begins with postgresql://")
        try:
            parse_dsn(f"postgresql://{rest}")
        except ProgrammingError:
            # libpq's own message repeats the URL, password included.
            raise ValueError("is not a URL that PostgreSQL's client library understands") from None
        return SecretStr(f"postgresql://{rest}")

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        networks = []
        for text in filter(None, (part.strip() for part in value.split(","))):
            try:
                networks.append(ip_network(text))
            except ValueError as error:
                # Also where it is not clear which is meant: 10.0.0.1/8 is one address in a network.
                raise ValueError(f"must be addresses or networks, separated by commas: {error}") from None
        return tuple(networks)

    @field_validator("secret_key_fallbacks", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("secret_key", "secret_key_fallbacks")
    @classmethod
    def _is_long_enough(
        cls, value: SecretStr | tuple[SecretStr, ...] | None
    ) -> SecretStr | tuple[SecretStr, ...] | None:
        keys = value if isinstance(value, tuple) else (value,)
        if any(key is not None and len(key.get_secret_value().encode()) < MIN_KEY_BYTES for key in keys):
            raise ValueError(f"must have at least {MIN_KEY_BYTES} bytes")
        return value

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Read the environment; `overrides`, which are options of a command, win over it unless they are None.

        Raises:
            SettingsError: A variable or an option does not hold what it must; the text names all of them.
        """
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        try:
            settings = cls(**given)
        except ValidationError as error:
            faults = "; ".join(
                f"{_spelled(str(fault['loc'][0]), given)} {_in_words(fault['msg'])}"
                for fault in error.errors(include_input=False, include_url=False)
            )
            # The cause is left out: its text repeats the input, which may be a secret.
            raise SettingsError(faults) from None
        settings._options = frozenset(given)
        return settings

    def given_as(self, name: str) -> str:
        """Return the name by which the user can have given a setting: that of an option, or of a variable."""
        return _spelled(name, self._options)


def unused_variables() -> list[str]:
    """Return a sentence for each variable of the environment that looks like a setting and is not used."""
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    sentences = []
    # Settings are read in any case, and empty ones are not.
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


def _in_words(message: str) -> str:
    """Turn pydantic's "Value error, must …" or "Input should be …" into words that follow the variable's name."""
    return message.removeprefix("Value error, ").replace("Input should", "should", 1)
