"""The cursors of psycopg2 that the code under test gets: they send everything through their connection."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from psycopg2 import InterfaceError, ProgrammingError, extensions

from tests.harness.gate import Reread, Send


@cache
def cursor_class(wanted: Any, is_named: bool) -> Any:
    """Return a subclass of a cursor class whose cursors send everything through their connection."""
    mixin = NamedCursor if is_named else Cursor
    if wanted is extensions.cursor:
        return mixin
    return wanted if issubclass(wanted, Cursor) else type(wanted.__name__, (wanted, mixin), {})


def is_class_of(made: Any, kind: type) -> bool:
    """Tell whether a factory that the code gave is a class of ours to derive from."""
    return made is None or (isinstance(made, type) and issubclass(made, kind))


class Cursor(extensions.cursor):
    """A cursor that sends everything through the gate."""

    _word: str | None = None
    _count: int | None = None

    def __init__(self, conn: Any, *arguments: Any, **options: Any) -> None:
        self._conn: Any = conn
        super().__init__(conn.real, *arguments, **options)
        conn.note_cursor(self)

    # The stubs have an attribute, but the driver does not let anyone set it either.
    @property
    def connection(self) -> Any:  # type: ignore[override]
        return self._conn

    @property
    def statusmessage(self) -> Any:
        return self._word or super().statusmessage

    @property
    def rowcount(self) -> int:
        return super().rowcount if self._count is None else self._count

    def _run(self, sql: Any, send: Send, reread: Reread | None = None) -> Any:
        if self.closed or self._conn.closed:
            raise InterfaceError("cursor already closed")
        self._word = self._count = None
        done = self._conn.run(_text(sql, self), send, reread)
        if isinstance(done, str):
            if self.description is not None or super().rowcount != -1:
                # What a statement before has left is gone.
                extensions.cursor.execute(self, "SAVEPOINT kit_nothing; RELEASE kit_nothing")
            self._word = done
            return None
        return done

    def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002 - the driver's name for it.
        send = super().execute
        return self._run(query, lambda: send(query, vars), lambda: self.mogrify(query, vars).decode())

    def executemany(self, query: Any, vars_list: Any) -> None:
        send, count = super().executemany, 0
        for values in vars_list:
            self._run(query, partial(send, query, [values]), lambda: self.mogrify(query, values).decode())  # noqa: B023
            count = -1 if count == -1 or super().rowcount == -1 else count + super().rowcount
        self._count = count

    def callproc(self, procname: Any, parameters: Any = None, /) -> Any:
        send, given = super().callproc, () if parameters is None else (parameters,)
        return self._run(f'SELECT * FROM "{_text(procname, self)}"()', lambda: send(procname, *given))

    def copy_from(self, file: Any, table: str, *arguments: Any, **options: Any) -> None:
        send = super().copy_from
        self._run(f'COPY "{table}" FROM STDIN', lambda: send(file, table, *arguments, **options))

    def copy_to(self, file: Any, table: str, *arguments: Any, **options: Any) -> None:
        send = super().copy_to
        self._run(f'COPY "{table}" TO STDOUT', lambda: send(file, table, *arguments, **options))

    def copy_expert(self, sql: Any, file: Any, *arguments: Any, **options: Any) -> None:
        send = super().copy_expert
        self._run(sql, lambda: send(sql, file, *arguments, **options))


class NamedCursor(Cursor):
    """A server-side cursor. It ends with its transaction unless it was declared WITH HOLD."""

    def __init__(self, conn: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(conn, *arguments, **options)
        self._ends = getattr(conn, "ends", 0)

    def _check(self) -> None:
        if not self.closed and not self.withhold and self._ends != getattr(self._conn, "ends", 0):
            raise ProgrammingError("named cursor isn't valid anymore")

    def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002
        send = super(Cursor, self).execute
        if self._conn.autocommit and not self.withhold:
            raise ProgrammingError("can't use a named cursor outside of transactions")
        self._check()
        hold = " WITH HOLD" if self.withhold else ""
        return self._run(f'DECLARE "{self.name}" CURSOR{hold} FOR {_text(query, self)}', lambda: send(query, vars))

    def _fetch(self, send: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self._check()
        return self._run("FETCH", lambda: send(*arguments, **options))

    def fetchone(self) -> Any:
        return self._fetch(super().fetchone)

    def fetchmany(self, *arguments: Any, **options: Any) -> Any:
        return self._fetch(super().fetchmany, *arguments, **options)

    def fetchall(self) -> Any:
        return self._fetch(super().fetchall)

    def __next__(self) -> Any:
        return self._fetch(super().__next__)

    def scroll(self, *arguments: Any, **options: Any) -> None:
        self._fetch(super().scroll, *arguments, **options)

    def close(self) -> None:
        if not self.closed and self.query is not None:
            self._check()
            self._run("CLOSE", super().close)
        else:
            super().close()


def _text(sql: Any, cursor: Any) -> str:
    if isinstance(sql, bytes):
        return sql.decode("utf-8", "replace")
    return sql if isinstance(sql, str) else str(sql.as_string(cursor))
