"""The guard of tests that commit: what they leave behind fails them by name, and is removed.

While tests run, each real connection is a `WatchedConnection`. It notes what is sent, and changes nothing.
"""

import threading
from contextlib import suppress
from typing import Any, ClassVar
from weakref import WeakSet

from peewee import PostgresqlDatabase
from psycopg2 import Error, extensions

from tests.harness import driver
from tests.harness.backend import CHANGES_SCHEMA, Backend
from tests.harness.connections import connection_class, wanted_cursor
from tests.harness.cursors import Cursor, cursor_class, is_class_of
from tests.harness.databases import shut
from tests.harness.escapes import Escapes, line_of_project
from tests.harness.findings import spending
from tests.harness.gate import Reread, Send
from tests.harness.sandbox import Sandbox, database_name, introduce, note_threads_left
from tests.harness.sessions import Session
from tests.harness.sqltext import Text, read
from tests.harness.tables import ask, delete_rows, tables_with_rows

# What a test may create: what it is called, and how it is dropped.
_OBJECTS = r"""
    WITH kinds (relkind, kind) AS (VALUES ('r', 'TABLE'), ('p', 'TABLE'), ('v', 'VIEW'), ('m', 'MATERIALIZED VIEW'),
        ('S', 'SEQUENCE'), ('f', 'FOREIGN TABLE'), ('i', 'INDEX')),
    own AS (SELECT oid FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema')
    SELECT lower(kind) || ' ' || c.oid::regclass, format('DROP %s IF EXISTS %s CASCADE', kind, c.oid::regclass)
    FROM pg_class c JOIN kinds ON kinds.relkind::"char" = c.relkind WHERE relnamespace IN (SELECT oid FROM own)
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = ANY(
        CASE c.relkind WHEN 'i' THEN '{i}'::"char"[] ELSE '{a,i}' END))
    UNION ALL SELECT 'function ' || oid::regprocedure, format('DROP ROUTINE IF EXISTS %s CASCADE', oid::regprocedure)
    FROM pg_proc WHERE pronamespace IN (SELECT oid FROM own)
    UNION ALL SELECT format('trigger %s on %s', tgname, tgrelid::regclass),
        format('DROP TRIGGER IF EXISTS %I ON %s', tgname, tgrelid::regclass) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'type ' || oid::regtype, format('DROP TYPE IF EXISTS %s CASCADE', oid::regtype)
    FROM pg_type WHERE typtype IN ('e', 'd') AND typnamespace IN (SELECT oid FROM own)
"""
_TABLES = r"""
    SELECT attrelid::regclass::text, attname::text, atttypid::regtype::text || attnotnull FROM pg_attribute
    JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' AND relkind IN ('r', 'p')
    AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid <> 0 ORDER BY 1, 2
"""


class Watch:
    """Makes the real connections, and remembers where each database was written to."""

    def __init__(self) -> None:
        self.connections: WeakSet[WatchedConnection] = WeakSet()
        # By the name of the database: the first line that wrote rows, or changed tables, since it was looked at.
        self.wrote: dict[str | None, str] = {}
        self.changed: dict[str | None, str] = {}

    def connect(self, parameters: dict[str, str], factory: Any, is_async: bool) -> extensions.connection | None:
        """Return a watched connection; None for a kind that cannot be watched."""
        if is_async or not is_class_of(factory, extensions.connection):
            return None
        kind = connection_class(factory, WatchedConnection)
        made: WatchedConnection = driver.real_connect(connection_factory=kind, **parameters)
        made.session, made.database_name = Session(Backend(made)), parameters.get("dbname")
        self.connections.add(made)
        return made

    def note(self, name: str | None, text: Text) -> None:
        """Note what is sent to a database."""
        if name not in self.wrote and (text.writes or "EXECUTE" in text.verbs):
            self.wrote[name] = line_of_project()
        creates = any("INTO" in one.words and "INSERT" not in one.words for one in text.statements)
        if name not in self.changed and (text.verbs & CHANGES_SCHEMA or creates):
            self.changed[name] = line_of_project()


watch = Watch()


class WatchedConnection(extensions.connection):
    """A real connection that notes what is sent."""

    # None while the code's own class opens the connection.
    session: Session | None = None
    database_name: str | None = None
    began = ""

    @property
    def real(self) -> Any:
        """The real connection, for cursors."""
        return self

    def note_cursor(self, cursor: Cursor) -> None:
        """Do nothing; the driver does all that is needed."""

    def cursor(
        self, name: Any = None, cursor_factory: Any = None, withhold: bool = False, scrollable: Any = None
    ) -> Any:
        wanted = wanted_cursor(self, cursor_factory)
        if is_class_of(wanted, extensions.cursor):
            wanted = cursor_class(wanted, name is not None)
        return super().cursor(name, wanted, withhold, scrollable)

    def run(self, sql: str, send: Send, reread: Reread | None = None) -> Any:
        """Send `sql` by calling `send`, and note it."""
        text = read(sql)
        if text is None or self.session is None:
            return send()
        watch.note(self.database_name, text)
        if text.calls and reread:
            text = read(reread()) or text
        if self.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE:
            self.session.end_transaction()
            self.began = "" if self.autocommit and "BEGIN" not in text.verbs else line_of_project()
        named = text._replace(calls=tuple(call for call in text.calls if call.setting))
        self.session.note_before(named)
        result = send()
        self.session.note_after(text)
        return result

    def look_at(self, escapes: Escapes, *, may_create: bool) -> None:
        """Note what a later test would find on this connection."""
        assert self.session is not None
        if self.get_transaction_status() != extensions.TRANSACTION_STATUS_IDLE:
            escapes.note("a transaction was left open", "commit it or roll it back", self.began)
            extensions.cursor(self).execute("ROLLBACK")
        self.session.note_left(escapes)
        for name in self.session.temporary:
            if self.session.has_temporary(name) and may_create:
                self.session.drop_temporary(name)
            elif self.session.has_temporary(name):
                what = f"the temporary table {name} was left"
                escapes.note(what, "drop it, or close its connection", self.session.created[name])
        # The driver has begun a transaction for the questions, unless it is in autocommit.
        self.rollback()


class Guard:
    """Surrounds a test that commits; if it `may_create` tables and the like, they are removed as a sandbox does."""

    _schemas: ClassVar[dict[str | None, tuple[dict[str, str], Any]]] = {}

    def __init__(self, database: PostgresqlDatabase, *, may_create: bool = False) -> None:
        self._database = database
        self._may_create = may_create
        self._name = database_name(database)

    def enter(self) -> None:
        """Look at the database before the test."""
        check_outside(self._database)
        Sandbox.rest()
        introduce(self._database)
        if self._name not in self._schemas:
            self._schemas[self._name] = dict(ask(_OBJECTS)), ask(_TABLES)
        self._threads = set(threading.enumerate())

    def leave(self) -> None:
        """Remove what the test has left behind. Fail it by a SandboxError if that is more than rows."""
        escapes = Escapes()
        with spending("deletion of committed rows"):
            note_threads_left(self._threads, escapes)
            mine = [conn for conn in watch.connections if conn.database_name == self._name and not conn.closed]
            for conn in mine:
                conn.look_at(escapes, may_create=self._may_create)
            if escapes:
                shut(self._database)
                for conn in mine:
                    conn.close()
            if self._name in watch.changed:
                self._remove_objects(escapes, watch.changed.pop(self._name))
            delete_rows()
            watch.wrote.pop(self._name, None)
        escapes.fail()

    def _remove_objects(self, escapes: Escapes, where: str) -> None:
        objects, tables = self._schemas[self._name]
        for name, drop in ask(_OBJECTS):
            if name not in objects:
                if not self._may_create:
                    escapes.note(f"the {name} was left", "drop it, or use a database of the test's own", where)
                # What belongs to something else has gone with it.
                with suppress(Error):
                    ask(drop)
        if ask(_TABLES) != tables:
            escapes.note("tables were left changed", "use a database of the test's own", where)


def check_outside(database: PostgresqlDatabase) -> None:
    """Delete rows that were made between two tests, and fail by a SandboxError if there were some."""
    where = watch.wrote.pop(database_name(database), None)
    if where is None or not (tables := tables_with_rows()):
        return
    delete_rows()
    escapes = Escapes()
    escapes.note(
        f"rows were left in {', '.join(tables)} outside a test", "make them in setUpTestData or in setUp", where
    )
    escapes.fail()


def forget_outside(database: PostgresqlDatabase) -> None:
    """Take the rows that are there for wanted."""
    watch.wrote.pop(database_name(database), None)
