"""The gate: everything that the code under test sends in a sandbox goes through it.

All connections share one real connection in one real transaction. A savepoint always stands for the beginning of the
next transaction: BEGIN costs nothing, ROLLBACK goes back to the savepoint, and COMMIT moves it forward, after all that
PostgreSQL does at COMMIT. A statement outside a transaction is a transaction of its own, as with autocommit.

`now()` and the transaction id are those of the one real transaction; a test that needs them to advance commits.
"""

import secrets
import threading
from collections.abc import Callable
from typing import Any

from psycopg2 import Error, InterfaceError, errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection

from tests.harness.backend import Backend
from tests.harness.escapes import Escapes, line_of_project
from tests.harness.refusals import ENDS_OR_BEGINS, refuse_error, refuse_meeting, refuse_text
from tests.harness.sessions import Session
from tests.harness.sqltext import Statement, Text, read

# What PostgreSQL calls the statements that need a transaction.
_NEEDS_TRANSACTION = {
    "LOCK": "LOCK TABLE",
    "DECLARE": "DECLARE CURSOR",
    "SAVEPOINT": "SAVEPOINT",
    "RELEASE": "RELEASE SAVEPOINT",
    "ROLLBACK TO": "ROLLBACK TO SAVEPOINT",
}
_NOTHING = Statement("")

Send = Callable[[], Any]
Reread = Callable[[], str]


class Gate:
    """One real connection, in a transaction that is never committed.

    Args:
        real: The connection, idle and not in autocommit.
        escapes: Where a refusal is noted; the sandbox of each test puts its own here.
    """

    def __init__(self, real: connection, escapes: Escapes) -> None:
        self.real = real
        self.escapes = escapes
        self.backend = Backend(real)
        self.turn = threading.RLock()  # held by the thread whose statement runs
        self.lost: list[Session] = []  # the garbage collector found their connections
        self._sessions: list[Session] = []
        self._ended: list[Session] = []
        self._owner: Session | None = None
        self._active: Session | None = None
        self._mark = f"kit_{secrets.token_hex(4)}"
        self._levels = 0
        self._interrupted: type[BaseException] | None = None
        self._is_spoiled = False

    @property
    def is_usable(self) -> bool:
        """Whether the next sandbox can have this connection: it remembers nothing that a new one would not know."""
        # There are levels left if Ctrl-C came while a sandbox ended.
        changed = self._levels or self._is_spoiled or self.backend.placeholders or self.backend.schema_changed
        return not (changed or self.real.closed)

    # -- sandboxes, one inside the other ------------------------------------------------------------------------------

    def push(self) -> None:
        """Begin a sandbox: the real transaction, or a part of it that is undone by itself."""
        if not self._levels:
            # A lock of an earlier test may have been taken unseen, by a trigger for example.
            self.backend.sql(f"SELECT pg_advisory_unlock_all(); SAVEPOINT {self._mark}")
        else:
            if self._owner:
                self.escapes.refuse("a part of the test was to be undone, and it began inside a transaction")
            self.backend.sql(f"RELEASE {self._mark}; SAVEPOINT {self._mark}_{self._levels}; SAVEPOINT {self._mark}")
        self._levels += 1

    def undo(self) -> None:
        """Undo what happened since the last `push`."""
        self._end()
        self.backend.sql(f"ROLLBACK TO {self._mark}_{self._levels - 1}; SAVEPOINT {self._mark}")

    def pop(self) -> None:
        """Undo what happened since the last `push`, and end that sandbox."""
        self._end()
        self._levels -= 1
        self._ended.clear()
        self._is_spoiled = self._is_spoiled or bool(self._interrupted)
        self._interrupted = None
        if self._levels:
            mark = f"{self._mark}_{self._levels}"
            self.backend.sql(f"ROLLBACK TO {mark}; RELEASE {mark}; SAVEPOINT {self._mark}")
            return
        is_lost = self.real.closed or self.real.get_transaction_status() == TRANSACTION_STATUS_IDLE
        self.real.rollback()
        self._active, self.backend.kept_lock = None, ""
        if is_lost:
            raise errors.NoActiveSqlTransaction("the sandbox's transaction is gone")

    # -- sessions -----------------------------------------------------------------------------------------------------

    def open(self) -> Session:
        """Return a new session."""
        session = Session(self.backend)
        self._sessions.append(session)
        return session

    def close(self, session: Session) -> None:
        """End a session: its transaction, temporary tables, settings, locks and cursors."""
        with self.turn:
            if session.closed:
                return
            session.closed = True
            self._sessions.remove(session)
            if self.real.closed or self._interrupted:
                if self._owner is session:
                    self._end()
                return
            self.rollback(session)
            self._ended.append(session)
            self._clean_up()

    def _clean_up(self) -> None:
        """Remove what sessions that have ended left, unless another one is in the middle of a transaction."""
        while self._ended and not self._owner:
            session = self._ended.pop()
            if self._active is session:
                self._active = None
            done = session.closing(self._sessions)
            if done:
                self._keep(done)

    def left_open(self, session: Session) -> None:
        """Note what a session that the test leaves open would do to a later test."""
        if self.real.closed or self._interrupted or session.closed:
            return
        if session.in_transaction:
            self.escapes.note("a transaction was left open", "commit it or roll it back", session.where)
            self.rollback(session)
        session.note_left(self.escapes)

    # -- what the code under test sends -------------------------------------------------------------------------------

    def run(self, session: Session, sql: str, send: Send, reread: Reread | None = None) -> Any:
        """Send what a session asks for, such that it has the effect that it would have in production.

        Args:
            session: Who sends.
            sql: What it sends.
            send: Sends it.
            reread: Returns the text with its parameters filled in.

        Returns:
            What `send` returns; or the server's word for a statement, as a string, if it was not sent.
        """
        return self.protected(lambda: self._run(session, sql, send, reread))

    def protected(self, do: Callable[[], Any]) -> Any:
        """Do something while no other thread does. After a KeyboardInterrupt in it, all that follows is interrupted."""
        with self.turn:
            if self._interrupted:
                raise self._interrupted
            try:
                return do()
            except Exception:
                raise
            except BaseException as error:
                self._interrupted = type(error)
                raise

    def _run(self, session: Session, sql: str, send: Send, reread: Reread | None) -> Any:
        if session.closed:
            raise InterfaceError("connection already closed")
        self._take_turn(session)
        text = read(sql)
        if text and text.calls and reread:
            text = read(reread())
        text = refuse_text(sql, text and self._with_functions(text), self.escapes)
        others = [other for other in (*self._sessions, *self._ended) if other is not session]
        refuse_meeting(session, text, others, self.backend, self.escapes)
        if not session.has_begun and (session.entered or not session.autocommit):
            # The driver sends BEGIN by itself.
            session.has_begun = True
            self.begin(session)
        single = text.statements[0] if len(text.statements) == 1 else _NOTHING
        if single.verb in ENDS_OR_BEGINS:
            return self._control(session, single)
        if not session.in_transaction and single.verb in _NEEDS_TRANSACTION:
            raise _no_transaction(_NEEDS_TRANSACTION[single.verb])
        if single.verb in ("PREPARE", "EXECUTE", "DEALLOCATE"):
            if session.prepare(single, sql):
                return "PREPARE"
            result = self._statement(session, text, send)
            session.note_prepared(single, sql)
            return result
        return self._statement(session, text, send)

    def _take_turn(self, session: Session) -> None:
        while self.lost:
            self.close(self.lost.pop())
        if self._owner and self._owner is not session:
            begun = f", begun at {self._owner.where}" if self._owner.where else ""
            self.escapes.refuse(f"a connection had to wait for the transaction of another one{begun}")
        self._clean_up()
        if self._active is not session:
            # The settings of a session are in force while it is active.
            changed = self._active.take_settings_away() if self._active else ""
            changed += session.bring_settings_back()
            self._active = session
            if changed:
                self._keep(changed)

    def _with_functions(self, text: Text) -> Text:
        """Return `text` with what the project's own functions do that it calls."""
        for name in text.names & self.backend.functions().keys():
            body = self.backend.functions()[name]
            text = text._replace(calls=text.calls + body.calls, locks=text.locks or body.locks)
        return text

    def _statement(self, session: Session, text: Text, send: Send) -> Any:
        alone = not session.in_transaction
        if alone:
            session.in_transaction = True
            self._owner = session
        try:
            session.note_before(text, self.escapes)
            result = send()
        except Exception as error:
            if alone:
                self.rollback(session)
            refuse_error(error, self.escapes, alone=alone)
            raise
        self.backend.note(text)
        session.note_after(text)
        if alone:
            self.commit(session)
        return result

    # -- transactions -------------------------------------------------------------------------------------------------

    def _control(self, session: Session, statement: Statement) -> str:
        """Begin or end what the session takes for a transaction, and return the server's word for it."""
        if statement.verb == "BEGIN":
            self.begin(session)
            if statement.has("READ", "ONLY"):
                self.backend.sql("SET TRANSACTION READ ONLY")
            return "START TRANSACTION" if statement.words[0] == "START" else "BEGIN"
        chains = statement.has("AND", "CHAIN")
        if chains and not session.in_transaction:
            raise _no_transaction(f"{statement.verb} AND CHAIN")
        word = statement.verb
        if word == "ROLLBACK":
            self.rollback(session)
        elif not self.commit(session):
            word = "ROLLBACK"
        if chains:
            self.begin(session)
        return word

    def begin(self, session: Session) -> None:
        """Begin a transaction; a second BEGIN does nothing."""
        if not session.in_transaction:
            session.in_transaction = True
            self._owner = session
            # Only another connection can be in its way.
            session.where = line_of_project() if len(self._sessions) > 1 else ""

    def commit(self, session: Session) -> bool:
        """Keep what the session did since `begin`, and return True; False if there was an error, as PostgreSQL does."""
        if not session.in_transaction:
            return True
        if self.backend.has_failed:
            self.rollback(session)
            return False
        constraints = self.backend.constraints()
        try:
            if constraints:
                self.backend.sql(f"SET CONSTRAINTS {', '.join(name for name, _ in constraints)} IMMEDIATE")
            deferred = ", ".join(name for name, is_deferred in constraints if is_deferred)
            self._keep((f"SET CONSTRAINTS {deferred} DEFERRED; " if deferred else "") + session.committing())
        except Error:
            self.rollback(session)
            raise
        self._end()
        return True

    def rollback(self, session: Session) -> None:
        """Undo what the session did since `begin`, and nothing before it."""
        if session.in_transaction:
            self._end()
            # A lost connection has nothing left to undo; the sandbox reports it when it ends.
            if not self.real.closed:
                self.backend.sql(f"ROLLBACK TO {self._mark}")

    def _keep(self, statements: str) -> None:
        """Run SQL of the sandbox's own, and let no ROLLBACK of the code undo anything so far."""
        self.backend.sql(f"{statements}RELEASE {self._mark}; SAVEPOINT {self._mark}")

    def _end(self) -> None:
        if self._owner:
            self._owner.end_transaction()
            self._owner = None


def _no_transaction(what: str) -> Error:
    """Return PostgreSQL's error for a statement that needs a transaction, as the driver would raise it."""
    said = f"{what} can only be used in transaction blocks\n"
    error = errors.NoActiveSqlTransaction(said)
    state: Any = error
    state.__setstate__({"pgerror": f"ERROR:  {said}", "pgcode": "25P01"})
    return error
