"""The PostgreSQL server of the test run: found once, whatever the number of modules.

A module of tests takes it as its fixture:

    from tests.harness.postgres import setUpModule, tearDownModule

It comes from the variable `…DATABASE_URL` (its prefix is `binding.PREFIX`); else from a container (`…IMAGE`), when a
Docker engine answers; else it is the embedded one. `…SERVER` (url, container, embedded) forces a source. No server is a
failed run, never a skipped one. On the server the schema is a template, keyed by its fingerprint, and the run works on
a clone of it.
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
from typing import Any

import psycopg2

from tests import binding
from tests.harness.databases import (
    Databases,
    DatabaseUrl,
    RunDatabase,
    UnreadableUrlError,
    point_project_at,
    without_secrets,
)
from tests.harness.gates import unmeasured

URL, SERVER, IMAGE = (f"{binding.PREFIX}{name}" for name in ("DATABASE_URL", "SERVER", "IMAGE"))
SOURCES = ("url", "container", "embedded")
DEFAULT_IMAGE = "postgres:18-alpine"
# Nothing here outlives the run, so nothing needs to survive a crash.
NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "max_connections=200")


class NoServerError(Exception):
    """The tests cannot have a PostgreSQL server; the text says why."""


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL server, and why it was taken; the role in `url` may create databases."""

    source: str
    reason: str
    url: DatabaseUrl
    stop: Callable[[], None]

    @property
    def described(self) -> str:
        """Its version, where it comes from and why, in a line for a person."""
        with closing(psycopg2.connect(self.url)) as connection:
            version = connection.get_parameter_status("server_version")
        return f"PostgreSQL {version} ({self.source}: {self.reason})"


def setUpModule() -> None:
    """Make sure that the run has its server and its database, and that the project uses it."""
    run_database_url()


def current_url() -> str:
    """Return the URL of the database that the project uses now."""
    return _current or run_database_url()


def point_at(url: str) -> None:
    """Have the project use the database at `url` from now on."""
    global _current  # noqa: PLW0603 - there is one database object in a process.
    point_project_at(url)
    _current = url


_current = ""


def tearDownModule() -> None:
    """Leave the server to the modules that follow; it stops when the run ends."""


@cache
def server() -> Server:
    """Return the run's server, started at the first call and stopped when the run ends, also by a signal."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # Otherwise a terminated run would leave its container behind: exit handlers need an exit. As after Ctrl-C,
        # because unittest would take a SystemExit for an error of the running test, and go on.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = _find()
    atexit.register(found.stop)
    print(found.described, file=sys.stderr)
    return found


def prepare() -> None:
    """Start the server and make the template, so that forked workers inherit both."""
    _template()


@cache
def databases() -> Databases:
    """Return what creates databases on the run's server."""
    return Databases(server().url)


@cache
def run_database_url() -> DatabaseUrl:
    """Return the URL of the database that this run shares, with the schema and no rows."""
    url = clone("test").url
    point_at(url)
    return url


def clone(label: str, source: RunDatabase | None = None) -> RunDatabase:
    """Create a copy of `source`, or a database with the schema and no rows. The end of the run drops it, or `drop`."""
    return databases().create(label, source.name if source else _template())


def empty(label: str) -> RunDatabase:
    """Create an empty database. The end of the run drops it, or `drop`."""
    return databases().create(label)


def drop(database: RunDatabase) -> None:
    """Drop a database that this run created, and close its connections."""
    databases().drop(database)


@cache
def _template() -> str:
    return databases().template(binding.fingerprint())


def _find() -> Server:
    forced = os.environ.get(SERVER)
    url = DatabaseUrl(os.environ.get(URL) or "")
    if forced not in (None, "", *SOURCES):
        raise NoServerError(f"{SERVER} is {forced!r}; it may be one of {', '.join(SOURCES)}")
    if forced == "url" and not url:
        raise NoServerError(f"{SERVER} is url, but {URL} is not set")
    because = f"{SERVER}={forced}"
    if forced == "url" or (url and not forced):
        return _given(url, because if forced else f"{URL} is set")
    if forced == "container":
        return _container(because)
    if forced == "embedded":
        return _embedded(because)
    try:
        return _container("a Docker engine answers")
    except NoServerError as error:
        return _embedded(str(error))


def _given(text: DatabaseUrl, reason: str) -> Server:
    try:
        url = DatabaseUrl.read(text)
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT rolcreatedb OR rolsuper, current_user FROM pg_roles WHERE rolname = current_user")
            ((may_create, role),) = cursor.fetchall()
    except UnreadableUrlError as error:
        problem = f"{URL}: {error}"
    except psycopg2.Error as error:
        problem = f"{URL}: {without_secrets(str(error), text)}"
    else:
        problem = "" if may_create else f"{URL}: the role {role} may not create databases (ALTER ROLE … CREATEDB)"
    if problem:
        # Outside the handlers: their errors may have the password.
        raise NoServerError(problem)
    return Server("url", reason, url, stop=lambda: None)


def _container(reason: str) -> Server:
    # Imported here: they take half a second, and most runs need no container.
    import docker  # noqa: PLC0415
    from docker.errors import DockerException, ImageNotFound  # noqa: PLC0415

    image = os.environ.get(IMAGE) or DEFAULT_IMAGE
    with closing(_engine(docker)) as engine:
        try:
            engine.images.get(image)
        except ImageNotFound:
            print(f"pulling {image}", file=sys.stderr)
            try:
                engine.images.pull(image)
            except DockerException as error:
                raise NoServerError(f"Docker cannot pull the image {image}") from error
    # Before the import below, which reads it: seconds between looks at a starting container, one second by default.
    os.environ.setdefault("TC_POOLING_INTERVAL", "0.1")
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415

    # A password that nothing else looks like: a test searches logs for it.
    password = secrets.token_hex(16)
    container = PostgresContainer(image, username=binding.NAME, password=password, dbname=binding.NAME, driver=None)
    container.with_command(["postgres", *(word for setting in NOT_DURABLE for word in ("-c", setting))])
    container.with_tmpfs_mount("/var/lib/postgresql")
    try:
        container.start()
    except (DockerException, TimeoutError) as error:
        raise NoServerError(f"no container of {image} starts: {error}") from error
    url = DatabaseUrl.read(container.get_connection_url())
    return Server("container", f"{image}, {reason}", url, stop=container.stop)


def _engine(docker: Any) -> Any:
    """Return a client of the Docker engine.

    Raises:
        NoServerError: None answers.
    """
    with warnings.catch_warnings():
        # Where nobody answers, docker's client leaves its socket to be collected, which is done while nobody is warned.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            engine = docker.from_env()
            engine.ping()
            return engine
        except docker.errors.DockerException as error:
            raise NoServerError("no Docker engine answers") from error
        finally:
            gc.collect()


def _embedded(reason: str) -> Server:
    with unmeasured():
        embedded = binding.embedded()
    if embedded is None:
        raise NoServerError(f"{reason}, {URL} is not set, and the project has no embedded PostgreSQL")
    return Server("embedded", reason, DatabaseUrl.read(embedded.url), stop=embedded.stop)
