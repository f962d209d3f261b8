"""What each connection of the code under test believes of the one real connection that all of them share."""

from collections.abc import Iterable

from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

from tests.harness.backend import Backend, assignment, literal, quoted, reset
from tests.harness.escapes import Escapes, line_of_project, prepares_connection
from tests.harness.sqltext import Statement, Text


class Session:
    """What PostgreSQL would know of one connection of the code under test."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.autocommit = False
        self.closed = False
        self.entered = False  # the code is inside ``with connection:``
        self.has_begun = False  # the driver believes that it has begun a transaction
        self.in_transaction = False
        self.where = ""  # the line that began the transaction, if another connection was there
        self.locks = ""  # the line that took an advisory lock
        # For each setting that was changed: its value before, and the line that changed it. The line is empty if the
        # setting belongs to every new connection, or to a transaction.
        self.settings: dict[str, tuple[str | None, str]] = {}
        self.temporary: dict[str, str] = {}  # for each temporary table: what the end of its transaction does with it
        self.created: dict[str, str] = {}  # the line that created each of them
        # For each setting that was changed for the running transaction: its value outside.
        self._local: dict[str, str | None] = {}
        # The values of the settings while another session is active.
        self._away: dict[str, str | None] | None = None
        self._prepared: dict[str, str] = {}
        self._declares = self._holds = self._is_opaque = False
        # The line that took an advisory lock for the running transaction.
        self._lock = ""

    @property
    def status(self) -> int:
        """The state of its transaction, as `get_transaction_status` gives it."""
        if not self.in_transaction:
            return TRANSACTION_STATUS_IDLE
        return TRANSACTION_STATUS_INERROR if self._backend.has_failed else TRANSACTION_STATUS_INTRANS

    # -- settings -----------------------------------------------------------------------------------------------------

    def take_settings_away(self) -> str:
        """Return the SQL after which this session's settings are no longer in force."""
        self._away = {name: self._backend.value(name) for name in self.settings}
        return "".join(map(reset, self.settings))

    def bring_settings_back(self) -> str:
        """Return the SQL after which they are in force again."""
        away, self._away = self._away or {}, None
        return "".join(assignment(name, value) for name, value in away.items())

    def note_before(self, text: Text, escapes: Escapes | None = None) -> None:
        """Remember the settings that `text` is going to change."""
        if self._backend.has_failed:
            return
        for statement in text.statements:
            if statement.verb in ("SET", "SET LOCAL", "RESET") and statement.name != "all":
                self._note_setting(statement.name, escapes, is_local=statement.verb == "SET LOCAL")
        for call in text.calls:
            if call.function == "set_config":
                self._note_setting(call.setting, escapes, is_local=call.is_local)

    def _note_setting(self, name: str, escapes: Escapes | None, *, is_local: bool) -> None:
        if escapes is not None and not is_local and name in self._local:
            escapes.refuse(f"{name} was set for the transaction and then for the session", "use one of the two")
        value = self._backend.value(name)
        if "." in name:
            self._backend.placeholders.add(name)
        if is_local:
            self._local.setdefault(name, value)
        _, where = self.settings.get(name, (None, ""))
        if not where:
            self.settings[name] = value, "" if is_local or prepares_connection() else line_of_project()

    # -- what else lasts longer than a statement ----------------------------------------------------------------------

    def note_after(self, text: Text) -> None:
        """Remember what `text` has left on the session."""
        self._is_opaque = self._is_opaque or bool(text.verbs & {"DO", "CALL", "LOAD"})
        self._declares = self._declares or "DECLARE" in text.verbs
        self._holds = self._holds or "DECLARE HOLD" in text.verbs
        if text.locks == "transaction":
            self._lock = line_of_project() or "a test"
        elif text.locks:
            self.locks = self.locks or line_of_project() or "a test"
        for statement in text.statements:
            if statement.verb == "CREATE TEMP":
                at_end = [word for word in ("DROP", "DELETE") if statement.has("COMMIT", word)]
                self.temporary[statement.name] = at_end[0] if at_end else ""
                self.created[statement.name] = line_of_project()

    def has_temporary(self, table: str) -> bool:
        """Tell whether a temporary table is there."""
        return self._backend.rows(f"SELECT to_regclass({literal(f'pg_temp.{quoted(table)}')})") != [(None,)]

    def drop_temporary(self, table: str) -> None:
        """Drop a temporary table."""
        self._backend.sql(f"DROP TABLE pg_temp.{quoted(table)} CASCADE")

    def prepare(self, statement: Statement, sql: str) -> bool:
        """Have a prepared statement be the one that this session knows; return whether nothing is left to do."""
        name, there = statement.name, self._backend.prepared
        mine = self._prepared.get(name)
        if mine == there.get(name) or self._backend.has_failed:
            return False
        if statement.verb == "PREPARE" and mine is None and there.get(name) == sql:
            self._prepared[name] = sql
            return True
        if there.pop(name, None) is not None:
            self._backend.sql(f"DEALLOCATE {quoted(name)}")
        if mine is not None:
            self._backend.sql(mine)
            there[name] = mine
        return False

    def note_prepared(self, statement: Statement, sql: str) -> None:
        """Remember what PREPARE or DEALLOCATE did."""
        for known in (self._prepared, self._backend.prepared):
            if statement.verb == "PREPARE":
                known[statement.name] = sql
            elif statement.verb == "DEALLOCATE":
                known.pop(statement.name, None)
                if statement.name == "all":
                    known.clear()

    # -- ends ---------------------------------------------------------------------------------------------------------

    def end_transaction(self) -> None:
        """Forget what belonged to the transaction."""
        self.in_transaction = self._declares = False
        self._lock = ""
        self._local.clear()

    def committing(self) -> str:
        """Return the SQL that does what COMMIT does to tables, cursors and settings of the transaction."""
        done = ""
        self._backend.kept_lock = self._backend.kept_lock or self._lock
        for table, at_end in list(self.temporary.items()):
            name = f"pg_temp.{quoted(table)}"
            if at_end == "DROP":
                done += f"DROP TABLE IF EXISTS {name}; "
                del self.temporary[table]
            elif at_end == "DELETE" and self.has_temporary(table):
                done += f"DELETE FROM {name}; "
        if self._declares:
            for (name,) in self._backend.rows("SELECT name FROM pg_cursors WHERE NOT is_holdable"):
                done += f"CLOSE {quoted(name)}; "
        return done + "".join(assignment(name, value) for name, value in self._local.items())

    def closing(self, others: Iterable["Session"]) -> str:
        """Return the SQL that does what the end of the connection does."""
        done = ""
        if self._is_opaque or (self.temporary and not any(other.temporary for other in others)):
            done += "DISCARD TEMP; "
        else:
            done += "".join(f"DROP TABLE IF EXISTS pg_temp.{quoted(name)}; " for name in self.temporary)
        if self._away is None:
            done += "".join(map(reset, self.settings)) + ("RESET ALL; " if self._is_opaque else "")
        if self.locks or self._is_opaque:
            done += "SELECT pg_advisory_unlock_all(); "
        return done + ("CLOSE ALL; " if self._holds else "")

    def note_left(self, escapes: Escapes) -> None:
        """Note what a later test would find on this session, which is still open."""
        for name, (before, where) in self.settings.items():
            value = self._backend.value(name) if self._away is None else self._away.get(name)
            # A custom setting that is reset is empty.
            if where and (value or None) != (before or None):
                what = f"the session's setting {name} was left changed"
                escapes.note(what, "use SET LOCAL inside a transaction", where)
        if self.locks and self._backend.release_locks():
            escapes.note("a session's advisory lock was left held", "use pg_advisory_xact_lock", self.locks)
        self.locks = ""
