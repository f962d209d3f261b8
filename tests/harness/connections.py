"""The connections of psycopg2 that the code under test gets.

The classes are psycopg2's own with some methods replaced, so that `isinstance`, type casters, dictionary cursors and
the helpers of `psycopg2.extras` work.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any
from weakref import WeakSet

from psycopg2 import InterfaceError, OperationalError, ProgrammingError, extensions

from tests.harness.cursors import Cursor, cursor_class, is_class_of
from tests.harness.gate import Gate, Reread, Send
from tests.harness.sessions import Session


@cache
def connection_class(wanted: Any, mixin: type) -> Any:
    """Return a subclass of a connection class that is also a `mixin`."""
    return mixin if wanted in (None, extensions.connection) else type(wanted.__name__, (wanted, mixin), {})


def wanted_cursor(conn: extensions.connection, factory: Any) -> Any:
    """Return the class of cursors that a call of `conn.cursor(cursor_factory=factory)` asks for."""
    default: Any = conn.cursor_factory
    return factory or default or extensions.cursor


class Connection(extensions.connection):
    """A connection of the code under test inside a sandbox.

    For the driver's own code in C it is a connection that was never made, which fails if it is used.
    """

    gate: Gate
    session: Session
    ends: int
    _cursors: "WeakSet[Cursor]"

    def __new__(cls, gate: Gate) -> "Connection":
        made: Connection = super().__new__(cls)
        made.gate = gate
        made.session = gate.open()
        made._cursors = WeakSet()
        made.ends = 0
        return made

    def __init__(self, *_: Any) -> None:
        # It has to be a connection, for `register_type` and its kin; this one libpq refuses at once.
        with suppress(OperationalError):
            super().__init__("sslmode=none")

    def __del__(self) -> None:
        # Not now: the garbage collector may be in the middle of anything.
        self.gate.lost.append(self.session)

    def run(self, sql: str, send: Send, reread: Reread | None = None) -> Any:
        """Send `sql` by calling `send`; see `Gate.run`."""
        return self.gate.run(self.session, sql, send, reread)

    @property
    def real(self) -> Any:
        """The one real connection."""
        return self.gate.real

    def note_cursor(self, cursor: Cursor) -> None:
        """Have a cursor close with the connection, and read values as the connection does."""
        self._cursors.add(cursor)
        cursor.string_types = dict(self.string_types)

    def cursor(  # type: ignore[override]  # One signature in place of the stub's overloads.
        self, name: str | None = None, cursor_factory: Any = None, withhold: bool = False, scrollable: Any = None
    ) -> Any:
        self._check()
        wanted = wanted_cursor(self, cursor_factory)
        if not is_class_of(wanted, extensions.cursor):
            self.gate.escapes.refuse("a cursor factory is not a class of cursors")
        made = cursor_class(wanted, name is not None)(self, name)
        made.withhold, made.scrollable = withhold, scrollable
        return made

    def commit(self) -> None:
        self._end(self.gate.commit)

    def rollback(self) -> None:
        self._end(self.gate.rollback)

    def _end(self, end: Callable[[Session], object]) -> None:
        self._check()
        # Also if there was no transaction: the driver's server-side cursors end with each commit.
        self.ends += 1
        # The driver does not end a transaction that the code has begun as SQL.
        if self.session.has_begun:
            self.session.has_begun = False
            self.gate.protected(lambda: end(self.session))

    def close(self) -> None:
        for cursor in list(self._cursors):
            extensions.cursor.close(cursor) if not cursor.name else None
        self.gate.close(self.session)

    def __enter__(self) -> Any:
        self._check()
        if self.session.entered:
            raise ProgrammingError("the connection cannot be re-entered recursively")
        self.session.entered = True
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.session.entered = False
        if kind is None:
            self.commit()
        else:
            self.rollback()

    def _check(self) -> None:
        if self.closed:
            raise InterfaceError("connection already closed")

    # -- how transactions begin ---------------------------------------------------------------------------------------

    def _configure(self) -> None:
        self._check()
        if self.session.in_transaction or self.session.has_begun:
            raise ProgrammingError("set_session cannot be used inside a transaction")

    @property
    def autocommit(self) -> bool:
        return self.session.autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self._configure()
        self.session.autocommit = bool(value)

    def set_session(
        self, isolation_level: Any = None, readonly: Any = None, deferrable: Any = None, autocommit: Any = None
    ) -> None:
        self._configure()
        if not _is_default(isolation_level) or readonly not in (None, False) or deferrable not in (None, False):
            self.gate.escapes.refuse("a connection asked for another isolation level or for READ ONLY")
        if autocommit is not None:
            self.session.autocommit = bool(autocommit)

    def set_isolation_level(self, level: Any) -> None:
        self._check()
        if level != extensions.ISOLATION_LEVEL_AUTOCOMMIT and not _is_default(level):
            self.gate.escapes.refuse(f"a connection asked for the isolation level {level}")
        self.rollback()
        self.session.autocommit = level == extensions.ISOLATION_LEVEL_AUTOCOMMIT

    def set_client_encoding(self, encoding: str) -> None:
        self._check()
        known = extensions.encodings
        if known.get(encoding.upper().replace("-", "")) != known.get(self.encoding):
            self.gate.escapes.refuse(f"a connection asked for the client encoding {encoding}")

    def reset(self) -> None:
        self.rollback()
        self.run("RESET ALL", lambda: self.gate.backend.sql("RESET ALL; SET SESSION AUTHORIZATION DEFAULT"))

    # -- what is known about it ---------------------------------------------------------------------------------------

    @property
    def closed(self) -> int:
        return 1 if self.session.closed else self.real.closed

    @property
    def status(self) -> int:
        return extensions.STATUS_BEGIN if self.session.has_begun else extensions.STATUS_READY

    def get_transaction_status(self) -> int:
        return extensions.TRANSACTION_STATUS_UNKNOWN if self.closed else self.session.status

    @property
    def info(self) -> Any:
        return _Info(self)


def _forwarded(name: str) -> Any:
    def forward(self: Connection, *arguments: Any) -> Any:
        self._check()
        return getattr(self.real, name)(*arguments)

    return forward


def _refused(name: str) -> Any:
    def refuse(self: Connection, *_: Any, **__: Any) -> Any:
        self.gate.escapes.refuse(f"connection.{name}() was used")

    return refuse


def _shared(name: str) -> Any:
    """Return a property that is the real connection's."""
    return property(lambda conn: getattr(conn.real, name), lambda conn, value: setattr(conn.real, name, value))


def _option(name: str) -> Any:
    """Return a property that may only be set to its default."""
    return property(lambda _: None, lambda conn, value: conn.set_session(**{name: value}))


for _make, _names in {
    _forwarded: ("get_backend_pid", "get_dsn_parameters", "get_parameter_status", "fileno", "isexecuting", "cancel"),
    _refused: ("lobject", "tpc_begin", "tpc_prepare", "tpc_commit", "tpc_rollback", "tpc_recover"),
    _shared: ("dsn", "encoding", "server_version", "protocol_version", "notices"),
    _option: ("isolation_level", "readonly", "deferrable"),
}.items():
    for _name in _names:
        setattr(Connection, _name, _make(_name))


class _Info:
    """`connection.info` of the real connection, but for the transaction."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        if name == "transaction_status":
            return self._conn.get_transaction_status()
        return getattr(self._conn.real.info, name)


def _is_default(level: Any) -> bool:
    if isinstance(level, str):
        return level.upper() in ("DEFAULT", "READ COMMITTED")
    return level in (None, extensions.ISOLATION_LEVEL_DEFAULT, extensions.ISOLATION_LEVEL_READ_COMMITTED)
