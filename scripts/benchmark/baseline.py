"""The same service without what makes it fast, for gunicorn: ``gunicorn benchmark.baseline:app``.

Its queries are built by Peewee at each use and not prepared on the server, and a token is checked each time it comes.
Nothing of the service is written twice: what makes it fast is taken out of it here, before its modules are imported.
"""

from typing import Any

from peewee import Query

from shop import database, tokens

_Compiled = database.Statement


class _Uncompiled(_Compiled):
    def __init__(self, query: Query) -> None:
        super().__init__(query)
        self.query = query


def _rows(self: database.Database, statement: _Uncompiled, **values: object) -> list[database.Row]:
    return _compiled_rows(self, _Compiled(statement.query), **values)


def _remember(_self: tokens.Tokens, *_token: Any) -> None:
    pass


database.Statement = _Uncompiled
_compiled_rows, database.Database.rows = database.Database.rows, _rows
tokens.Tokens._remember = _remember

from shop.app import create_app  # noqa: E402
from shop.settings import Settings  # noqa: E402

app = create_app(Settings.load(prepared_statements=False))
