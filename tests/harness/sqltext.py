"""What a text of SQL does, as far as isolation has to know it.

sqlglot's tokenizer reads the text, so literals, dollar quotes, quoted identifiers and comments are never taken for
statements. The result is cached for each text.
"""

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar, NamedTuple

from sqlglot import Token, TokenType
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import TokenError

# Functions that reach further than the statement that calls them.
_NOTED = ("set_config", "current_setting", "pg_notify")
_ADVISORY = ("pg_advisory_", "pg_try_advisory_")
_SETTINGS_OF_WORDS = {
    "TIME": "timezone",
    "NAMES": "client_encoding",
    "SCHEMA": "search_path",
    "ROLE": "role",
    "AUTHORIZATION": "session_authorization",
}
# Longer texts are rows that are inserted together, and not sent twice.
_LONGEST_KEPT = 10_000
_WRITES = {"INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY", "CREATE", "ALTER", "DROP", "INTO", "DO", "CALL"}
_FIRST_WORDS = {"START": "BEGIN", "END": "COMMIT", "ABORT": "ROLLBACK"}
_LITERALS = {
    TokenType.STRING,
    TokenType.NATIONAL_STRING,
    TokenType.BYTE_STRING,
    TokenType.UNICODE_STRING,
    TokenType.HEREDOC_STRING,
    TokenType.RAW_STRING,
    TokenType.HEX_STRING,
    TokenType.BIT_STRING,
    TokenType.NUMBER,
}


class _Tokenizer(Postgres.Tokenizer):
    # sqlglot does not look into some statements; here each one is read to its end.
    COMMANDS: ClassVar[set[TokenType]] = set()


class Statement(NamedTuple):
    """One statement."""

    verb: str  # what it does: its first word, or one of the longer names that `_statement` and its kin give
    name: str = ""  # the setting, prepared statement or temporary table that it is about, if any
    words: tuple[str | None, ...] = ()  # in capitals; None in place of literals and quoted names

    def has(self, *words: str) -> bool:
        """Tell whether these words stand in it, one after the other."""
        return any(self.words[at : at + len(words)] == words for at in range(len(self.words)))


class Call(NamedTuple):
    """A call of a function that sets or reads a setting."""

    function: str
    setting: str  # empty if only the server knows it
    is_local: bool  # ends with the transaction


class Text(NamedTuple):
    """What was sent at once."""

    statements: tuple[Statement, ...]
    verbs: frozenset[str]
    calls: tuple[Call, ...]  # of `set_config` and `current_setting`
    notifies: bool  # calls `pg_notify`
    locks: str  # "session" or "transaction" if it takes an advisory lock, else empty
    names: frozenset[str]  # without schemas
    writes: bool  # may change rows or tables


def read(sql: str) -> Text | None:
    """Return what `sql` does, or None if it is not SQL (a quote without an end)."""
    return _read(sql) if len(sql) < _LONGEST_KEPT else _read.__wrapped__(sql)


@lru_cache(4096)
def _read(sql: str) -> Text | None:
    try:
        tokens = _Tokenizer().tokenize(sql)
    except TokenError:
        return None
    split = list(_split(tokens))
    statements = tuple(map(_statement, split))
    for statement in split:
        if _word(statement[0]) == "DO":
            tokens = tokens + [token for body in statement[1:] for token in _body(body)]
    called = {name for name, _ in _called(tokens)}
    # pg_advisory_xact_lock and its kin end with the transaction.
    advisory = {name for name in called if name.startswith(_ADVISORY)}
    lasting = any("_xact_" not in name for name in advisory)
    return Text(
        statements,
        frozenset(statement.verb for statement in statements),
        tuple(_calls(tokens)),
        "pg_notify" in called,
        ("session" if lasting else "transaction") if advisory else "",
        frozenset(_name(token) for token in tokens if token.token_type not in _LITERALS),
        any(_WRITES.intersection(statement.words) for statement in statements),
    )


def _split(tokens: list[Token]) -> Iterator[list[Token]]:
    """Yield the tokens of each statement. The body of a function in standard SQL (BEGIN ATOMIC) is no statement."""
    statement: list[Token] = []
    depth = 0
    for token in tokens:
        word = _word(token)
        if depth or (word == "ATOMIC" and statement and _word(statement[-1]) == "BEGIN"):
            depth += (word in ("ATOMIC", "CASE")) - (word == "END")
        elif token.token_type is TokenType.SEMICOLON:
            if statement:
                yield statement
            statement = []
            continue
        statement.append(token)
    if statement:
        yield statement


def _statement(tokens: list[Token]) -> Statement:
    words = tuple(map(_word, tokens))
    first, rest = words[0] or "", tokens[1:]
    verb, name = _FIRST_WORDS.get(first, first), ""
    if words[:2] in (("COMMIT", "PREPARED"), ("ROLLBACK", "PREPARED"), ("PREPARE", "TRANSACTION")):
        verb = "TWO PHASES"
    elif first == "SET":
        return _set(rest, words)
    elif verb == "ROLLBACK" and "TO" in words[:3]:
        verb = "ROLLBACK TO"
    elif first in ("RESET", "SHOW"):
        name = _setting(rest)
    elif first in ("PREPARE", "EXECUTE"):
        name = _name(rest[0]) if rest else ""
    elif first == "DEALLOCATE":
        name = _name(rest[-1]) if rest else ""
    elif first == "DECLARE":
        query = words.index("FOR") if "FOR" in words else len(words)
        verb = "DECLARE HOLD" if Statement("", words=words[:query]).has("WITH", "HOLD") else "DECLARE"
    elif temporary := _temporary(first, tokens, words):
        return temporary
    return Statement(verb, name, words)


def _set(rest: list[Token], words: tuple[str | None, ...]) -> Statement:
    """Return which kind of SET it is: they have little in common but the word."""
    second, third = (*words[1:3], None, None)[:2]
    if second in ("TRANSACTION", "CONSTRAINTS") or (second, third) == ("SESSION", "CHARACTERISTICS"):
        return Statement(f"SET {third if second == 'SESSION' else second}", words=words)
    verb = "SET LOCAL" if second == "LOCAL" else "SET"
    qualified = second in ("LOCAL", "SESSION") and len(rest) > 1 and rest[1].text not in ("=", ".")
    return Statement(verb, _setting(rest[1:] if qualified else rest), words)


def _setting(tokens: list[Token]) -> str:
    """Return the name of the setting that `tokens` begin with."""
    if not tokens:
        return ""
    words = [_word(token) for token in tokens[:2]]
    if words[0] in _SETTINGS_OF_WORDS and (len(words) == 1 or (tokens[1].text not in ("=", ".") and words[1] != "TO")):
        return _SETTINGS_OF_WORDS[words[0]]
    if words == ["SESSION", "AUTHORIZATION"]:
        return "session_authorization"
    name = tokens[0].text
    for dot, part in zip(tokens[1::2], tokens[2::2], strict=False):
        if dot.text != ".":
            break
        name += f".{part.text}"
    return name.lower()


def _temporary(first: str, tokens: list[Token], words: tuple[str | None, ...]) -> Statement | None:
    """Return the statement if it makes a temporary table, view or sequence."""
    if first == "CREATE":
        at = next((at for at, word in enumerate(words[:4]) if word in ("TEMP", "TEMPORARY")), None)
    else:
        # SELECT ... INTO TEMP name
        pairs = enumerate(itertools.pairwise(words))
        at = next((at + 1 for at, pair in pairs if pair in (("INTO", "TEMP"), ("INTO", "TEMPORARY"))), None)
    if at is None:
        if first != "CREATE" or "PG_TEMP" not in words:
            return None
        return Statement("CREATE TEMP", _name(tokens[words.index("PG_TEMP") + 2]), words)
    skipped = ("TABLE", "VIEW", "SEQUENCE", "RECURSIVE", "IF", "NOT", "EXISTS", "UNLOGGED")
    names = [token for token, word in zip(tokens[at + 1 :], words[at + 1 :], strict=True) if word not in skipped]
    if len(names) > 2 and names[1].text == ".":
        names = names[2:]
    return Statement("CREATE TEMP", _name(names[0]) if names else "", words)


def _called(tokens: list[Token]) -> Iterator[tuple[str, int]]:
    for at, (token, following) in enumerate(itertools.pairwise(tokens)):
        if following.token_type is TokenType.L_PAREN and token.token_type not in _LITERALS:
            name = token.text.lower()
            if name in _NOTED or name.startswith(_ADVISORY):
                yield name, at


def _body(token: Token) -> list[Token]:
    """Return the tokens of a block of code that is given as a literal."""
    try:
        return _Tokenizer().tokenize(token.text) if token.token_type in _LITERALS else []
    except TokenError:
        return []


def _calls(tokens: list[Token]) -> Iterator[Call]:
    for name, at in _called(tokens):
        if name in ("set_config", "current_setting"):
            yield _call(tokens, at)
    for at, (first, second) in enumerate(itertools.pairwise(tokens)):
        # In the body of a function or of a block.
        if at and (_word(first), _word(second)) == ("SET", "LOCAL"):
            yield Call("set_config", _setting(tokens[at + 2 :]), True)


def _call(tokens: list[Token], at: int) -> Call:
    """Return the call whose name is the token number `at`."""
    arguments: list[list[Token]] = [[]]
    depth = 0
    for token in tokens[at + 2 :]:
        depth += (token.token_type is TokenType.L_PAREN) - (token.token_type is TokenType.R_PAREN)
        if depth < 0:
            break
        if token.token_type is TokenType.COMMA and not depth:
            arguments.append([])
        else:
            arguments[-1].append(token)
    literal = arguments[0][0] if len(arguments[0]) == 1 else None
    setting = literal.text.lower() if literal and literal.token_type in _LITERALS else ""
    last = arguments[2] if len(arguments) > 2 else []
    return Call(
        tokens[at].text.lower(), setting, bool(last) and last[0].text.lower() in ("true", "t", "1", "on", "yes")
    )


def _word(token: Token) -> str | None:
    is_word = token.token_type not in _LITERALS and token.token_type is not TokenType.IDENTIFIER
    return token.text.upper() if is_word else None


def _name(token: Token) -> str:
    return token.text if token.token_type is TokenType.IDENTIFIER else token.text.lower()
