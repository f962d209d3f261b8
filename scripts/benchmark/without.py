"""The service without one of the things that make it fast, to see what that one buys.

    python -m benchmark.without NAME serve --port 8001

Nothing of the service is written twice, and nothing in it knows of this: what makes it fast is taken out of it here,
before the modules that use it are imported.
"""

import sys
from collections.abc import Callable
from typing import Any

from shop.security import tokens
from shop.storage import database


def _without_compiled_statements() -> None:
    """Let Peewee build each query at each use."""
    compiled, run = database.Statement, database.Database.rows

    class Uncompiled(compiled):
        def __init__(self, query: Any) -> None:
            super().__init__(query)
            self.query = query

    def rows(self: database.Database, statement: Uncompiled, **values: object) -> list[database.Row]:
        return run(self, compiled(statement.query), **values)

    database.Statement, database.Database.rows = Uncompiled, rows
    # What is built anew each time has nothing that could have been prepared.
    _without_prepared_statements()


def _without_prepared_statements() -> None:
    """Send each statement as text, to be parsed and planned each time."""
    database.Database.prepares = property(lambda _: False, lambda _, value: None)


def _without_remembered_tokens() -> None:
    """Check each token each time it comes."""
    tokens.Tokens._remember = lambda *_: None


TRICKS: dict[str, Callable[[], None]] = {
    "compiled statements": _without_compiled_statements,
    "prepared statements": _without_prepared_statements,
    "remembered tokens": _without_remembered_tokens,
}


if __name__ == "__main__":
    _, name, *arguments = sys.argv
    TRICKS[name]()
    from shop.cli import main

    sys.exit(main(arguments))
