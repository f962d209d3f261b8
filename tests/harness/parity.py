"""The other isolation: for each test a database of its own and real commits, to hold the sandbox's verdicts against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peewee import PostgresqlDatabase

from tests.harness.databases import close_connections
from tests.harness.postgres import clone, current_url, drop, point_at
from tests.harness.tables import deletion, table_names


class ClonedDatabase:
    """Stands where a `Sandbox` would: points the service's database object at a fresh clone of the migrated schema.

    Args:
        database: The service's database object.
        source: Whose clone to make instead; nobody may be connected to its own.
    """

    def __init__(self, database: PostgresqlDatabase, source: "ClonedDatabase | None" = None) -> None:
        self._database = database
        self._source = source

    def enter(self) -> None:
        """Make the clone and point the database object at it."""
        self._outside = current_url()
        # A database with connections cannot be cloned.
        close_connections()
        self._clone = clone("parity", self._source and self._source._clone)
        point_at(self._clone.url)

    def leave(self) -> None:
        """Point the database object back and drop the clone, whoever is connected to it."""
        point_at(self._outside)
        drop(self._clone)

    @contextmanager
    def undone(self) -> Iterator[Callable[[], None]]:
        """Put the rows back as they are now, after the block, and when the function is called that it gets."""
        run = self._database.execute_sql
        saved = {
            table: run(f'SELECT coalesce(json_agg(t), $$[]$$)::text FROM "{table}" AS t').fetchone()[0]
            for table in table_names()
        }

        def undo() -> None:
            run(deletion())
            for table, rows in reversed(saved.items()):
                run(f'INSERT INTO "{table}" SELECT * FROM json_populate_recordset(NULL::"{table}", %s)', (rows,))

        try:
            yield undo
        finally:
            undo()
