"""What the sandbox cannot stand in for, and refuses by name."""

from collections.abc import Sequence

from tests.harness.backend import Backend
from tests.harness.escapes import Escapes
from tests.harness.sessions import Session
from tests.harness.sqltext import Text

ENDS_OR_BEGINS = {"BEGIN", "COMMIT", "ROLLBACK", "TWO PHASES"}
_CHOOSES_LEVEL = {"BEGIN", "SET TRANSACTION", "SET CHARACTERISTICS"}
# PostgreSQL's codes for a statement that cannot run inside the sandbox's transaction, though it could in production:
# active_sql_transaction, invalid_transaction_termination, unsafe_new_enum_value_usage.
_CANNOT_RUN = ("25001", "2D000")
_UNSAFE_ENUM = "55P04"


def refuse_text(sql: str, text: Text | None, escapes: Escapes) -> Text:
    """Refuse by a SandboxError what has no meaning in a sandbox, from any connection."""
    if text is None:
        escapes.refuse(f"{shown(sql)} could not be read")
    if text.verbs & {"LISTEN", "NOTIFY"} or text.notifies:
        escapes.refuse("LISTEN or NOTIFY, which take effect at COMMIT, were used")
    if "TWO PHASES" in text.verbs:
        escapes.refuse(f"{shown(sql)} commits in two phases")
    if len(text.statements) > 1 and text.verbs & ENDS_OR_BEGINS:
        escapes.refuse(f"{shown(sql)} begins or ends a transaction among other statements", "send each one by itself")
    if text.verbs & _CHOOSES_LEVEL and any(
        "ISOLATION" in statement.words and not statement.has("READ", "COMMITTED") for statement in text.statements
    ):
        escapes.refuse(f"{shown(sql)} asks for another isolation level")
    if "SET CHARACTERISTICS" in text.verbs:
        escapes.refuse(f"{shown(sql)} holds from the next transaction on")
    for statement in text.statements:
        kind = statement.words[:2]
        if kind in (("ALTER", "DATABASE"), ("ALTER", "ROLE"), ("ALTER", "USER")) and "SET" in statement.words:
            escapes.refuse(f"{shown(sql)} changes what later connections begin with")
    changed = [statement.name for statement in text.statements if statement.verb in ("SET", "SET LOCAL")]
    for name in changed + [call.setting for call in text.calls if call.function == "set_config"]:
        if name.startswith("default_transaction_") or name == "transaction_isolation":
            escapes.refuse(f"{name} was changed, which holds from the next transaction on")
        if not name:
            escapes.refuse(f"{shown(sql)} changes a setting whose name only the server knows", "give it as a literal")
    return text


def refuse_meeting(session: Session, text: Text, others: Sequence[Session], backend: Backend, escapes: Escapes) -> None:
    """Refuse what would show one connection what another one has done to the shared session."""
    for other in others:
        if text.locks and other.locks:
            what = f"an advisory lock was asked for while another connection may hold one, taken at {other.locks}"
            escapes.refuse(what)
        if common := text.names & (other.temporary.keys() - session.temporary.keys()):
            escapes.refuse(f"the name {min(common)} is that of another connection's temporary table")
    if backend.kept_lock and "pg_locks" in text.names:
        what = f"pg_locks still shows an advisory lock whose transaction has ended, taken at {backend.kept_lock}"
        escapes.refuse(what)
    if backend.placeholders:
        asked = {call.setting for call in text.calls if call.function == "current_setting"}
        asked |= {statement.name for statement in text.statements if statement.verb == "SHOW"}
        if unknown := (asked & backend.placeholders) - session.settings.keys():
            what = f"{min(unknown)} reads as empty here and as unknown in production: another connection has set it"
            escapes.refuse(what)


def refuse_error(error: Exception, escapes: Escapes, *, alone: bool) -> None:
    """Refuse a statement that failed only because the sandbox is a transaction."""
    code = getattr(error, "pgcode", None)
    if (alone and code in _CANNOT_RUN) or code == _UNSAFE_ENUM:
        escapes.refuse(f"a statement cannot run in the sandbox's transaction ({str(error).splitlines()[0]})")


def shown(sql: str) -> str:
    """Return the beginning of a text of SQL in one line."""
    return repr(" ".join(sql.split())[:60])
