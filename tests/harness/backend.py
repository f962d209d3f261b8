"""The one real connection of a sandbox, for SQL of the sandbox's own, and what the server remembers on it."""

import weakref
from typing import Any

from psycopg2 import InterfaceError
from psycopg2.extensions import TRANSACTION_STATUS_INERROR, connection, cursor

from tests.harness.sqltext import Text, read

_DEFERRABLE = """
    SELECT quote_ident(nspname) || '.' || quote_ident(conname), condeferred
    FROM pg_constraint JOIN pg_namespace ON pg_namespace.oid = connamespace WHERE condeferrable
"""
_FUNCTIONS = """
    SELECT proname, prosrc FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND prosrc ~* 'set_config|advisory|notify|set\\s+local'
"""
CHANGES_SCHEMA = {"CREATE", "CREATE TEMP", "ALTER", "DROP", "DO", "CALL", "IMPORT"}
_MAKES_FUNCTIONS = {"function", "procedure", "routine", "extension", "do", "call"}
_ADVISORY_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"


class Backend:
    """One real connection, idle at first and not in autocommit."""

    def __init__(self, real: connection) -> None:
        # Not to keep it alive: a connection that the code drops has to end.
        self._real = weakref.ref(real)
        self.prepared: dict[str, str] = {}  # the text of each prepared statement on it
        # Custom settings that it knows now, and would not have known when it was new.
        self.placeholders: set[str] = set()
        self.kept_lock = ""  # the line that took an advisory lock that is held beyond the transaction of the code
        self.schema_changed = False  # since the connection was made, perhaps
        self._functions_changed = False
        self._constraints: list[tuple[str, bool]] | None = None
        self._functions: dict[str, Text] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the transaction accepts nothing but its end."""
        real = self._real()
        return real is None or bool(real.get_transaction_status() == TRANSACTION_STATUS_INERROR)

    def sql(self, statements: str) -> None:
        """Run SQL of the kit's own, unseen by the gate."""
        self._cursor().execute(statements)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the kit's own."""
        asking = self._cursor()
        asking.execute(query)
        return asking.fetchall()

    def _cursor(self) -> cursor:
        real = self._real()
        if real is None:
            raise InterfaceError("connection already closed")
        return cursor(real)

    def value(self, setting: str) -> str | None:
        """Return the value of a setting, None if there is no such setting."""
        ((value,),) = self.rows(f"SELECT current_setting({literal(setting)}, true)")
        return None if value is None else str(value)

    def constraints(self) -> list[tuple[str, bool]]:
        """Return the constraints that may be deferred, and whether each is unless told otherwise."""
        if self._constraints is None or self.schema_changed:
            self._constraints = [(name, deferred) for name, deferred in self.rows(_DEFERRABLE)]
        return self._constraints

    def functions(self) -> dict[str, Text]:
        """Return which of the project's functions change settings or take locks."""
        if self._functions is None or self._functions_changed:
            bodies = ((name, read(body)) for name, body in self.rows(_FUNCTIONS))
            self._functions = {name: text for name, text in bodies if text}
        return self._functions

    def note(self, text: Text) -> None:
        """Note whether `text` has changed the schema."""
        if text.verbs & CHANGES_SCHEMA:
            self.schema_changed = True
            self._functions_changed = self._functions_changed or bool(text.names & _MAKES_FUNCTIONS)

    def release_locks(self) -> bool:
        """Release all advisory locks of the session, and return whether there were any."""
        # Locks of transactions, which the sandbox holds to its end, remain.
        held = self.rows(_ADVISORY_LOCKS)
        self.sql("SELECT pg_advisory_unlock_all()")
        return self.rows(_ADVISORY_LOCKS) != held


def quoted(name: str) -> str:
    """Return a name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return a text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def reset(setting: str) -> str:
    """Return the SQL that resets a setting."""
    return f"RESET {'.'.join(map(quoted, setting.split('.')))}; "


def assignment(setting: str, value: str | None) -> str:
    """Return the SQL that gives a setting a value for the session."""
    if value is None:
        return reset(setting)
    return f"SELECT set_config({literal(setting)}, {literal(value)}, false); "
