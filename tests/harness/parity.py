"""The other isolations: real commits, to hold the sandbox's verdicts against.

`ClonedDatabase` gives each test a database of its own. `DeletedRows` deletes what the test wrote, which is a hundred
times cheaper; sequences go on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peewee import PostgresqlDatabase

from tests.harness.backend import literal
from tests.harness.databases import RunDatabase, shut
from tests.harness.guard import Guard, forget_outside
from tests.harness.postgres import clone, current_url, drop, point_at
from tests.harness.tables import ask, delete_rows, hang_up, table_names


@contextmanager
def rows_put_back() -> Iterator[Callable[[], None]]:
    """Put the rows back as they are now, after the block, and when the function is called that it gets."""
    undo = rows_saved()
    try:
        yield undo
    finally:
        undo()


class ClonedDatabase:
    """Stands where a `Sandbox` would: points the project's database object at a fresh clone of the schema.

    If there is a `source`, the isolation of the class, its clone is cloned; nobody may be connected to that one.
    """

    undone = staticmethod(rows_put_back)
    _clone: RunDatabase

    def __init__(self, database: PostgresqlDatabase, source: "ClonedDatabase | None" = None) -> None:
        self._database = database
        self._source = source

    def enter(self) -> None:
        """Make the clone and point the database object at it."""
        self._outside = current_url()
        # A database with connections cannot be cloned.
        shut(self._database)
        hang_up()
        self._clone = clone("parity", self._source._clone if self._source else None)
        point_at(self._clone.url)

    def leave(self) -> None:
        """Point the database object back and drop the clone, and close its connections."""
        point_at(self._outside)
        drop(self._clone)


class DeletedRows:
    """Stands where a `Sandbox` would: the test commits, and its rows are deleted.

    If there is a `source`, the isolation of the class, its rows are put back.
    """

    undone = staticmethod(rows_put_back)

    def __init__(self, database: PostgresqlDatabase, source: "DeletedRows | None" = None) -> None:
        self._database = database
        self._guard = Guard(database, may_create=True)
        self._source = source
        self._restore: Callable[[], None] | None = None

    def enter(self) -> None:
        """Look at the database before the test."""
        if self._source:
            # The class made them, not the time between two tests.
            forget_outside(self._database)
            self._restore = rows_saved()
        self._guard.enter()

    def leave(self) -> None:
        """Delete the rows of the test. Fail it by a SandboxError if it left something else behind."""
        try:
            self._guard.leave()
        finally:
            if self._restore:
                self._restore()


def rows_saved() -> Callable[[], None]:
    """Return a function that puts the rows back as they are now."""
    saved = {
        table: ask(f'SELECT coalesce(json_agg(t), $$[]$$)::text FROM "{table}" AS t')[0][0] for table in table_names()
    }

    def restore() -> None:
        delete_rows()
        for table, rows in reversed(saved.items()):
            ask(f'INSERT INTO "{table}" SELECT * FROM json_populate_recordset(NULL::"{table}", {literal(rows)})')

    return restore
