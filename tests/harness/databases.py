"""The databases of a run, on a server that other runs may use at the same time.

A name has a random part, and is remembered from the moment of its creation. A comment on each database says which run
made it. The run holds an advisory lock under the number in the comment for as long as it lives, so a later run knows
whose databases nobody needs any more.
"""

import atexit
import hashlib
import json
import os
import platform
import re
import secrets
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg2
from peewee import PeeweeException, PostgresqlDatabase
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

from tests import binding

# PostgreSQL cuts longer names.
LONGEST_NAME = 63
_NAMES_AND_COMMENTS = "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database WHERE NOT datistemplate"
# A lock's number of 64 bits is in two columns.
_LIVE_RUNS = """
SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
"""


class UnreadableUrlError(ValueError):
    """A text is no connection URL or string of PostgreSQL; the message never has the text."""


class DatabaseUrl(str):
    """A ``postgresql://`` URL, or what should be one; no traceback or failure shows its password."""

    __slots__ = ()

    @classmethod
    def read(cls, text: str) -> "DatabaseUrl":
        """Return a connection URL, or a string of keywords and values (``host=… dbname=…``), as a URL."""
        return cls.of(_parameters(text))

    @classmethod
    def of(cls, parameters: dict[str, str]) -> "DatabaseUrl":
        """Return the URL with these parameters of libpq."""
        rest = dict(parameters)
        user, password = rest.pop("user", ""), rest.pop("password", "")
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        place = ""
        # Sockets and lists of hosts have no place in the first part of a URL.
        if not re.search(r"[/,@]", rest.get("host", "/")):
            host = rest.pop("host")
            place = (f"[{host}]" if ":" in host else host) + (f":{rest.pop('port')}" if rest.get("port") else "")
        name = quote(rest.pop("dbname", ""), safe="")
        query = "&".join(f"{key}={quote(value, safe='/')}" for key, value in rest.items())
        return cls(f"postgresql://{login}{'@' if login else ''}{place}/{name}{'?' if query else ''}{query}")

    @property
    def parameters(self) -> dict[str, str]:
        """Its parameters, by libpq's names."""
        return _parameters(self)

    def with_database(self, name: str) -> "DatabaseUrl":
        """Return the URL of another database on the same server."""
        return self.of(self.parameters | {"dbname": name})

    def __repr__(self) -> str:
        try:
            shown = self.parameters
        except UnreadableUrlError:
            return "'***'"
        return repr(str(self.of(shown | {"password": "***"} if "password" in shown else shown)))


def _parameters(text: str) -> dict[str, str]:
    try:
        found: dict[str, str] = parse_dsn(text)
    except psycopg2.ProgrammingError:
        raise UnreadableUrlError("it is no URL (postgresql://…) and no connection string of PostgreSQL") from None
    if "@" in found.get("host", "") or "@" in found.get("dbname", ""):
        raise UnreadableUrlError("a special character in its password must be written in per cent: @ as %40, / as %2F")
    return found


def without_secrets(message: str, text: str) -> str:
    """Return libpq's `message` about the connection URL or string `text`, without any part of its password."""
    hidden = [part for part in re.split(r"[@/:?#\s]", "".join(re.findall(r"//[^:@/]*:(.*)@", text))) if part]
    with suppress(UnreadableUrlError):
        hidden.append(_parameters(text).get("password", ""))
    for part in sorted(filter(None, hidden), key=len, reverse=True):
        message = message.replace(part, "***")
    return message


def shut(database: PostgresqlDatabase) -> bool:
    """Close the connections of a database object, idle ones too; return False if that ended a transaction."""
    if database.deferred:
        return True
    try:
        (getattr(database, "close_all", None) or database.close)()
    except PeeweeException:
        database.dispose()
        return False
    return True


def point_project_at(url: str) -> None:
    """Have the project use the database at `url` from now on."""
    shut(binding.database())
    binding.point_at(url)


class RunDatabase(NamedTuple):
    """A database that this run has created."""

    name: str
    url: DatabaseUrl


class Databases:
    """Creates and drops the databases of this process on one server, whose `url` is for a role that may do that."""

    def __init__(self, url: DatabaseUrl) -> None:
        self._url = url
        self._created: set[str] = set()
        self._process = os.getpid()
        self.key = secrets.randbits(62)
        # Open for as long as the run lives: with this connection ends the lock, however the run ends.
        self._keeper = psycopg2.connect(url, application_name=f"{binding.NAME} tests")
        self._keeper.autocommit = True
        with self._keeper.cursor() as cursor:
            cursor.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")
            cursor.execute("SELECT pg_advisory_lock(%s)", (self.key,))
        atexit.register(self.close)
        self._remove_dead()

    def execute(self, statement: Any, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement outside any transaction, as CREATE DATABASE needs it."""
        with closing(psycopg2.connect(self._url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []

    def create(self, label: str, template: str | None = None) -> RunDatabase:
        """Create a database with `label` in its name: a copy of `template`, or an empty one."""
        random = secrets.token_hex(6)
        name = f"{binding.NAME}_{label}"[: LONGEST_NAME - len(random) - 1] + f"_{random}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        if self._keeper.server_version >= 150000:
            # Several times as fast as WAL_LOG for a database that small.
            statement += sql.SQL(" STRATEGY FILE_COPY")
        self.execute(statement)
        self._created.add(name)
        comment = sql.Literal(_described(key=self.key))
        self.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), comment))
        return RunDatabase(name, self._url.with_database(name))

    def drop(self, database: RunDatabase) -> None:
        """Drop a database that this run created, and close its connections."""
        if database.name not in self._created:
            raise LookupError(f"this run did not create the database {database.name}")
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))
        self._created.discard(database.name)

    def template(self, fingerprint: str) -> str:
        """Return the name of the template with this schema. It is made if the server has none, and stays."""
        name = f"{binding.NAME[:30]}_template_{hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}"
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = %s AND datistemplate", (name,)):
            draft = self.create("draft")
            point_project_at(draft.url)
            binding.make_schema()
            # A database with connections cannot become a template.
            point_project_at(self._url)
            self._publish(draft, name)
        return name

    def _publish(self, draft: RunDatabase, name: str) -> None:
        """Make `draft` the template `name`, all at once: a template that exists is complete."""
        comment = sql.Literal(_described(template=True))
        parts = {"draft": sql.Identifier(draft.name), "name": sql.Identifier(name), "comment": comment}
        change = "ALTER DATABASE {draft} IS_TEMPLATE true ALLOW_CONNECTIONS false"
        renamed = "; ALTER DATABASE {draft} RENAME TO {name}; COMMENT ON DATABASE {name} IS {comment}"
        try:
            self.execute(sql.SQL(change + renamed).format(**parts))
        except psycopg2.errors.DuplicateDatabase:
            # Another run on the same server was first, with the same schema.
            self.drop(draft)
        else:
            self._created.discard(draft.name)

    def _remove_dead(self) -> None:
        """Drop the databases of runs that ended without dropping them."""
        found = [(name, _key(comment)) for name, comment in self.execute(_NAMES_AND_COMMENTS)]
        # Asked for after the databases: a run takes its lock before it creates any.
        live = {key for (key,) in self.execute(_LIVE_RUNS)}
        for name, key in found:
            if key is not None and key not in live:
                # Somebody may still be connected, or another run may remove it as well.
                with suppress(psycopg2.Error):
                    self.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))

    def close(self) -> None:
        """Drop all databases of the run, those of its forked workers included, and end it."""
        if os.getpid() != self._process:
            return  # a worker: the run goes on
        with suppress(psycopg2.Error):  # The server may be gone.
            for name, comment in self.execute(_NAMES_AND_COMMENTS):
                if _key(comment) == self.key:
                    self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        self._keeper.close()


def _described(**facts: Any) -> str:
    """Return the comment of a database: who made it, and `facts`."""
    created = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    made_by = {"host": platform.node(), "pid": os.getpid(), "created": created}
    return json.dumps({"kit": "tests.harness", "project": binding.NAME, **made_by, **facts})


def _key(comment: str | None) -> int | None:
    """Return the number of the run that a comment names; None where it is no comment of this project's runs."""
    try:
        facts = json.loads(comment or "")
        if facts["kit"] == "tests.harness" and facts["project"] == binding.NAME:
            return int(facts["key"])
    except (ValueError, TypeError, KeyError):
        pass
    return None
