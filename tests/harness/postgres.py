"""The PostgreSQL server of the test run: found once, whatever the number of modules.

A module of tests takes it as its fixture:

    from tests.harness.postgres import setUpModule, tearDownModule

It comes from `SHOP_TEST_DATABASE_URL`; else from a container (`SHOP_TEST_IMAGE`), when a Docker engine answers; else it
is the embedded one. `SHOP_TEST_SERVER` (url, container, embedded) forces a source. No server is a failed run, never a
skipped one. On the server the migrated schema is a template, keyed by the hash of the migrations, and the run works
on a clone of it.
"""

import atexit
import gc
import os
import secrets
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit, urlunsplit

import docker
import psycopg2
from docker.errors import DockerException
from psycopg2 import sql

from shop.embedded.server import EmbeddedPostgres
from shop.storage import migrations

# Before the import below, which reads it: seconds between looks at a starting container, one second by default.
os.environ.setdefault("TC_POOLING_INTERVAL", "0.1")
from testcontainers.community.postgres import PostgresContainer

from tests.harness.measured_embedded_supervisor import unmeasured

SOURCES = ("url", "container", "embedded")
DEFAULT_IMAGE = "postgres:18-alpine"
# Nothing here outlives the run, so nothing needs to survive a crash.
NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "max_connections=200")


class NoServerError(Exception):
    """The tests cannot have a PostgreSQL server; the text says why."""


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL server.

    Attributes:
        source: One of `SOURCES`.
        reason: Why it was taken, in a few words.
        url: ``postgresql://`` URL of a database on it, for a role that may create databases.
        stop: Ends what was started for this run.
    """

    source: str
    reason: str
    url: str
    stop: Callable[[], None]

    @property
    def described(self) -> str:
        """Its version, where it comes from and why, in a line for a person."""
        version = self.execute(sql.SQL("SHOW server_version"))[0][0]
        return f"PostgreSQL {version} ({self.source}: {self.reason})"

    def url_of(self, name: str) -> str:
        """Return the URL of the server's database `name`."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def execute(self, statement: sql.Composable, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Run one statement outside any transaction, as CREATE DATABASE needs it."""
        with closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []


def setUpModule() -> None:
    """Make sure that the run has its server and its database."""
    run_database_url()


def tearDownModule() -> None:
    """Leave the server to the modules that follow; it stops when the run ends."""


@cache
def server() -> Server:
    """Return the run's server, started at the first call and stopped when the run ends, also by a signal.

    Raises:
        NoServerError: None can be had.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # Otherwise a terminated run would leave its container behind: exit handlers need an exit. As after Ctrl-C,
        # because unittest would take a SystemExit for an error of the running test, and go on.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = _find()
    atexit.register(found.stop)
    print(found.described, file=sys.stderr)
    return found


@cache
def run_database_url() -> str:
    """Return the URL of the database that this run shares, with the migrated schema and no rows."""
    url = clone(f"shop_test_{os.getpid()}")
    # Registered after the server's own end, and so run before it.
    atexit.register(drop, url.rpartition("/")[2].partition("?")[0])
    return url


def clone(name: str, template: str | None = None) -> str:
    """Create the database `name` as a copy of `template`, the migrated schema if that is None, and return its URL."""
    drop(name)
    source = sql.Identifier(template or _template())
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    server().execute(statement.format(sql.Identifier(name), source))
    return server().url_of(name)


def drop(name: str) -> None:
    """Drop the database `name` if it is there, whoever is connected to it."""
    server().execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@cache
def _template() -> str:
    """Return the name of the template with the migrated schema, made when the server has none of this hash."""
    name = f"shop_template_{migrations.fingerprint()}"
    identifier = sql.Identifier(name)
    if not server().execute(sql.SQL("SELECT 1 FROM pg_database WHERE datname = %s"), (name,)):
        # Built under another name: a template that exists is complete, also after an interrupted run.
        draft_name = f"{name}_{os.getpid()}"
        draft = sql.Identifier(draft_name)
        server().execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(draft))
        server().execute(sql.SQL("CREATE DATABASE {}").format(draft))
        migrations.migrate(server().url_of(draft_name))
        try:
            server().execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(draft, identifier))
        except psycopg2.errors.DuplicateDatabase:
            # Another run on the same server was first, with the same schema.
            server().execute(sql.SQL("DROP DATABASE {}").format(draft))
    return name


def _find() -> Server:
    forced = os.environ.get("SHOP_TEST_SERVER")
    url = os.environ.get("SHOP_TEST_DATABASE_URL")
    if forced not in (None, "", *SOURCES):
        raise NoServerError(f"SHOP_TEST_SERVER is {forced!r}; it may be one of {', '.join(SOURCES)}")
    if forced == "url" and not url:
        raise NoServerError("SHOP_TEST_SERVER is url, but SHOP_TEST_DATABASE_URL is not set")
    because = f"SHOP_TEST_SERVER={forced}"
    if forced == "url" or (url and not forced):
        return _given(url or "", because if forced else "SHOP_TEST_DATABASE_URL is set")
    if forced == "container":
        return _container(because)
    if forced == "embedded":
        return _embedded(because)
    try:
        return _container("a Docker engine answers")
    except NoServerError as error:
        return _embedded(str(error))


def _given(url: str, reason: str) -> Server:
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError as error:
        raise NoServerError(f"SHOP_TEST_DATABASE_URL: {error}") from error
    return Server("url", reason, url, stop=lambda: None)


def _container(reason: str) -> Server:
    if not _engine_answers():
        raise NoServerError("no Docker engine answers")
    image = os.environ.get("SHOP_TEST_IMAGE") or DEFAULT_IMAGE
    # A password that nothing else looks like: a test searches logs for it.
    password = secrets.token_hex(16)
    container = PostgresContainer(image, username="shop", password=password, dbname="shop", driver=None)
    container.with_command(["postgres", *(word for setting in NOT_DURABLE for word in ("-c", setting))])
    container.with_tmpfs_mount("/var/lib/postgresql")
    try:
        container.start()
    except (DockerException, TimeoutError) as error:
        raise NoServerError(f"no container of {image} starts: {error}") from error
    return Server("container", f"{image}, {reason}", container.get_connection_url(), stop=container.stop)


def _engine_answers() -> bool:
    with warnings.catch_warnings():
        # Where nobody answers, docker's client leaves its socket to be collected, which is done while nobody is warned.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with closing(docker.from_env()) as client:
                client.ping()
            return True
        except DockerException:
            return False
        finally:
            gc.collect()


def _embedded(reason: str) -> Server:
    embedded = EmbeddedPostgres.throwaway()
    with unmeasured():
        embedded.start()
    return Server("embedded", reason, embedded.url, stop=embedded.stop)
