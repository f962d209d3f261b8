"""The sandbox: what a test does to the database is undone, and the code under test does not notice.

For the length of a test every connection to the database under test is one of `tests.harness.driver`, and all of them
share one real connection, in a transaction that is rolled back at the end (`tests.harness.gate`). A test in the sandbox
gets the verdict that production would give. What cannot be stood in for fails the test by name.
"""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from peewee import PostgresqlDatabase
from psycopg2 import Error, extensions

from tests.harness import driver
from tests.harness.connections import Connection, connection_class
from tests.harness.cursors import is_class_of
from tests.harness.databases import shut
from tests.harness.escapes import INSTEAD, Escapes, line_of_project, line_of_thread
from tests.harness.findings import findings, spending
from tests.harness.gate import Gate


class Sandbox:
    """The transaction around one test, or around the tests of a class that share their data.

    The database object may be any PostgresqlDatabase on psycopg2. It is not changed: its connections are closed when
    the sandbox begins and ends. If it is in a sandbox already, this one is a part of that one.
    """

    # From the outermost to the innermost; and the real connection, which is kept from one to the next.
    _entered: ClassVar[list["Sandbox"]] = []
    _gate: ClassVar[Gate | None] = None
    _parameters: ClassVar[dict[str, str]] = {}
    _making = threading.RLock()

    def __init__(self, database: PostgresqlDatabase, _of_class: object = None) -> None:
        self._database = database
        self._escapes = Escapes()

    def enter(self) -> None:
        """Begin. The first connection begins the real transaction, so a test that uses none costs nothing."""
        with spending("sandbox"):
            self._name = database_name(self._database)
            was_open = not self._database.is_closed()
            introduce(self._database)
            shut(self._database)
            self._threads = set(threading.enumerate())
            self._opened: list[tuple[weakref.ref[Connection], str]] = []
            self._has_begun = False
            self._entered.append(self)
            driver.install(self._connect)
            if was_open and not self._database.autoconnect:
                self._database.connect()
        findings.sandboxes += 1

    def leave(self) -> None:
        """Undo everything since `enter`, and fail the test by a SandboxError if it left something behind.

        The next sandbox, or the next real connection, finds a clean database.
        """
        with spending("sandbox"):
            try:
                self._look_around()
            finally:
                driver.uninstall(self._connect)
                self._entered.remove(self)
                self._undo()
        self._escapes.fail()

    @contextmanager
    def undone(self) -> Iterator[Callable[[], None]]:
        """Undo what happens inside the block, within one test.

        The block gets a function that undoes at once what it has done so far.
        """
        with self._making:
            if self._gate is None:
                was_closed = self._database.is_closed()
                self._database.connection()
                if was_closed:
                    self._database.close()
            gate = self._ready(self._parameters)
        gate.push()
        try:
            yield gate.undo
        finally:
            gate.pop()

    # -- connections --------------------------------------------------------------------------------------------------

    def _connect(self, parameters: dict[str, str], factory: Any, is_async: bool) -> extensions.connection | None:
        """Return a connection that shares the real one; None for another database."""
        if parameters.get("dbname") != self._name:
            return None
        if is_async or not is_class_of(factory, extensions.connection):
            self._escapes.refuse("a connection was asked for that is not an ordinary one of psycopg2")
        with self._making:
            gate = self._ready(parameters)
        made: Connection = connection_class(factory, Connection)(gate)
        self._opened.append((weakref.ref(made), line_of_project()))
        return made

    def _ready(self, parameters: dict[str, str]) -> Gate:
        """Return the gate, in the transaction of each sandbox that has been entered."""
        gate = self._gate
        is_begun = any(sandbox._has_begun for sandbox in self._entered)
        if gate and is_begun:
            names = driver.differing(parameters, self._parameters)
            if names:
                self._escapes.refuse(f"two connections differ in their options ({', '.join(names)})")
            if gate.real.closed:
                self._escapes.refuse("the sandbox's connection was lost, and with it all that the test had written")
        elif gate is None or not gate.is_usable or parameters != self._parameters:
            self._drop()
            gate = self._make(parameters)
        gate.escapes = self._escapes
        for sandbox in self._entered:
            if not sandbox._has_begun:
                gate.push()
                sandbox._has_begun = True
        return gate

    def _make(self, parameters: dict[str, str]) -> Gate:
        real = driver.real_connect(**parameters)
        gate = Gate(real, self._escapes)
        ((level,),) = gate.backend.rows("SHOW default_transaction_isolation")
        # Now, because the code may set a time limit that is too short for this.
        gate.backend.constraints()
        gate.backend.functions()
        real.rollback()
        if level != "read committed":
            real.close()
            self._escapes.refuse(f"the database's or the connection's default isolation level is {level}")
        Sandbox._gate, Sandbox._parameters = gate, parameters
        return gate

    # -- the end ------------------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Note what the test has left behind, and close its connections."""
        gate = self._gate if self._has_begun else None
        mine = [made for made, _ in self._opened]
        if gate:
            with gate.turn:
                for made in mine:
                    conn = made()
                    if conn is not None and not conn.closed:
                        gate.left_open(conn.session)
        if not shut(self._database) and not self._escapes:
            self._escapes.note("a transaction was left open", "commit it or roll it back", "")
        if any((conn := made()) is not None and not conn.closed for made in mine):
            # Some may only wait for the garbage collector. It must not find them in use here.
            del conn
            gc.collect()
        for made, where in self._opened:
            conn = made()
            if conn is not None and not conn.closed:
                self._escapes.note("a connection was left open", "close it", where)
                conn.close()
            del conn
        note_threads_left(self._threads, self._escapes)

    def _undo(self) -> None:
        if not self._has_begun or self._gate is None:
            return
        try:
            self._gate.pop()
        except Error:
            self._escapes.note(
                "the sandbox's transaction ended during the test, or its connection was lost", INSTEAD, ""
            )
        except BaseException:
            self._drop()
            raise

    @classmethod
    def rest(cls) -> None:
        """Close the real connection until the next sandbox: a test may count connections."""
        if not cls._entered:
            cls._drop()

    @classmethod
    def _drop(cls) -> None:
        gate, Sandbox._gate = cls._gate, None
        if gate and not gate.real.closed:
            gate.real.close()


_introduced: set[str | None] = set()


def introduce(database: PostgresqlDatabase) -> None:
    """Connect once for real: a service may start threads of its own with its first connection."""
    name = database_name(database)
    if name not in _introduced and not database.deferred:
        database.connect(reuse_if_open=True)
        driver_of = type(database.connection()).__module__
        is_known = isinstance(database.connection(), extensions.connection)
        shut(database)
        if not is_known:
            raise TypeError(f"the test kit needs psycopg2, and the database object connects with {driver_of}")
        _introduced.add(name)


def note_threads_left(before: set[threading.Thread], escapes: Escapes) -> None:
    """Note the threads that run now and did not run before."""
    standing = {thread.name for thread in before}
    for thread in set(threading.enumerate()) - before:
        # A thread that the service keeps, such as a watchdog, may have been replaced by another one.
        if not (thread.daemon and thread.name in standing):
            what = f"the thread {thread.name!r} was left running"
            escapes.note(what, "join it before the test ends", line_of_thread(thread.ident))


def database_name(database: PostgresqlDatabase) -> str | None:
    """Return the name of the database that a database object is for."""
    if database.deferred:
        return None
    name = str(database.database)
    if "=" in name or name.startswith(("postgres://", "postgresql://")):
        return driver.parse(name).get("dbname")
    return name
