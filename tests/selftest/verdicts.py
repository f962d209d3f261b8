"""Runs code with real commits and in a sandbox, and holds the two outcomes against each other.

A scenario is a method `test_…(self, db, Item)` that is decorated with `@verdict`. It runs for each kind of database
object, with a connection for each thread or with one for each request, and each time both ways. The result, the
rows afterwards and the error have to be the same.
"""

import functools
import re
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from peewee import IntegerField, Model, PostgresqlDatabase, TextField
from playhouse.pool import PooledPostgresqlDatabase
from playhouse.postgres_ext import PostgresqlExtDatabase
from psycopg2.extensions import connection

from tests.harness import driver
from tests.harness.databases import shut
from tests.harness.escapes import SandboxError
from tests.harness.postgres import clone, drop
from tests.harness.sandbox import Sandbox

KINDS: dict[str, Callable[[str], PostgresqlDatabase]] = {
    "PostgresqlDatabase": PostgresqlDatabase,
    "PostgresqlExtDatabase": PostgresqlExtDatabase,
    "PooledPostgresqlDatabase": lambda url: PooledPostgresqlDatabase(url, max_connections=8),
}
# Each with whether requests connect and close.
COMBINATIONS = (
    ("PostgresqlDatabase", False),
    ("PostgresqlExtDatabase", True),
    ("PooledPostgresqlDatabase", True),
)
SCHEMA = """
    CREATE TABLE item (id serial PRIMARY KEY, name text UNIQUE, number int NOT NULL DEFAULT 0 CHECK (number < 100));
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE later (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY IMMEDIATE);
    CREATE TABLE noted (what text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO noted VALUES (NEW.id); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER noting AFTER INSERT ON child DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION note();
    CREATE PROCEDURE committing() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
    CREATE FUNCTION take_lock() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(1)';
    CREATE FUNCTION be_tenant(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        RETURN set_config('app.tenant', $1, true); END $$;
    CREATE TYPE mood AS ENUM ('good');
"""
ROWS = """
    SELECT 'item', name || ' ' || number FROM item UNION ALL SELECT 'parent', id::text FROM parent
    UNION ALL SELECT 'child', id || ' ' || parent FROM child UNION ALL SELECT 'later', id || ' ' || parent FROM later
    UNION ALL SELECT 'noted', what FROM noted ORDER BY 1, 2
"""
# A hundred times cheaper than TRUNCATE on tables this small.
EMPTY = """
    DELETE FROM noted; DELETE FROM child; DELETE FROM later; DELETE FROM parent; DELETE FROM item;
    SELECT setval('item_id_seq', 1, false)
"""


class VerdictTestCase(unittest.TestCase):
    """A database with tables of its own, and scenarios that run on it both ways.

    Attributes:
        request: Surrounds what one request would do; it connects and closes if requests do.
        url: The database.
        admin: A connection to it that no sandbox knows.
    """

    url: ClassVar[str]
    admin: ClassVar[connection]
    per_request: bool

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.url = fresh_database(cls)
        cls.admin = driver.real_connect(cls.url)
        cls.addClassCleanup(cls.admin.close)
        cls.admin.autocommit = True
        cls.ask(SCHEMA)

    @classmethod
    def ask(cls, sql: str) -> list[tuple[object, ...]]:
        """Run SQL on a connection that no sandbox knows."""
        with cls.admin.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def request(self, db: PostgresqlDatabase) -> Iterator[None]:
        """Surround a part of a scenario that is one request."""
        if not self.per_request:
            yield
            return
        db.connect(reuse_if_open=True)
        try:
            yield
        finally:
            if not db.is_closed():
                db.close()

    def outcome(self, db: PostgresqlDatabase, scenario: Callable[..., object]) -> tuple[object, object]:
        """Return what a scenario returns, and its error."""
        result, error = None, None
        item = model_of(db)
        try:
            if not self.per_request:
                db.connect(reuse_if_open=True)
            result = scenario(self, db, item)
        except SandboxError:
            raise
        except Exception as raised:
            original = getattr(raised, "orig", raised)
            error = type(raised).__name__, getattr(original, "pgcode", None), _same(str(raised))
        shut(db)
        return result, error

    def both(self, kind: str, scenario: Callable[..., object]) -> tuple[object, object]:
        """Return the outcomes with real commits and in a sandbox."""
        db = KINDS[kind](self.url)
        self.ask(EMPTY)
        committed = (*self.outcome(db, scenario), self.ask(ROWS))
        self.ask(EMPTY)
        sandbox = Sandbox(db)
        sandbox.enter()
        try:
            sandboxed = (*self.outcome(db, scenario), db.execute_sql(ROWS).fetchall())
        finally:
            sandbox.leave()
        self.assertEqual([], self.ask(ROWS), "rows got out of the sandbox")
        return committed, sandboxed


def verdict(scenario: Callable[..., object]) -> Callable[[VerdictTestCase], None]:
    """Have a scenario be a test: its outcome in the sandbox must be that with real commits."""

    @functools.wraps(scenario)
    def test(self: VerdictTestCase) -> None:
        for kind, self.per_request in COMBINATIONS:
            with self.subTest(kind=kind, per_request=self.per_request):
                committed, sandboxed = self.both(kind, scenario)
                self.assertEqual(committed, sandboxed, "with real commits, and in a sandbox")

    del test.__wrapped__
    return test


def model_of(db: PostgresqlDatabase) -> Any:
    """Return the model of the table `item` on a database object."""

    class Item(Model):
        name = TextField(unique=True)
        number = IntegerField(default=0)

        class Meta:
            database = db

    return Item


def names(item: Any) -> list[str]:
    """Return the names of all items."""
    return sorted(row.name for row in item.select())


def fresh_database(cls: type[unittest.TestCase]) -> str:
    """Return the URL of an empty copy of the run's schema, which is dropped after the class."""
    database = clone("verdicts")
    cls.addClassCleanup(drop, database)
    return database.url


def _same(message: str) -> str:
    """Return an error's text without generated names."""
    return re.sub(r"\bs?[0-9a-f]{32}\b", "…", message)
