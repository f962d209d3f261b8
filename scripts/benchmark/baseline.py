"""The service without its optimisations, for gunicorn: ``gunicorn benchmark.baseline:app``.

Peewee builds each query at each use, no statement is prepared, and each token is verified each time. The service itself
has no switches for this: the optimisations are replaced here, before the modules that use them are imported.
"""

from typing import Any

from shop.security import tokens
from shop.storage import database, statements

_compiled, _run = statements.Statement, database.Database.rows


class Uncompiled(_compiled):
    """A statement that keeps its query, to be compiled again at each use."""

    def __init__(self, query: Any) -> None:
        super().__init__(query)
        self.query = query


def _compile_and_run(self: database.Database, statement: Any, **values: object) -> list[database.Row]:
    # The database compiled its own statement, of `ping`, when it was imported.
    query = getattr(statement, "query", None)
    return _run(self, _compiled(query) if query is not None else statement, **values)


statements.Statement = Uncompiled
database.Database.rows = _compile_and_run
database.Database.prepares = property(lambda _: False, lambda _, value: None)
tokens.Tokens._remember = lambda *_: None

# Only now: these modules make their statements when they are imported.
from shop.app import create_app  # noqa: E402
from shop.settings import Settings  # noqa: E402

app = create_app(Settings.load())
