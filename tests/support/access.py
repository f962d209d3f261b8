"""The access matrix: which caller may call which operation. `tests.integration.test_access` checks it.

An operation that is not listed here has the default: it needs a token, only the owner and staff get a success, and
everybody else gets the 404 that the operation declares.
"""

from tests.support.operations import Operation, operations

Answer = int | tuple[int, str]

# Callers without a valid token get a 401, except from public operations.
STRANGERS = ("no token", "malformed", "expired", "wrong signature", "alg none")
KNOWN = ("deleted user", "another user", "owner", "staff")
UNAUTHORIZED = (401, "UNAUTHORIZED")
NO_USER = (404, "USER_NOT_FOUND")

# The operations that need no token. They are listed here and declared public, so that neither happens by mistake.
PUBLIC = {
    "POST /users",
    "POST /users/login",
    "GET /livez",
    "GET /readyz",
    "GET /openapi.json",
    "GET /docs",
    "GET /docs/{asset}",
}
# What callers with a valid token get, in the order of `KNOWN`, where it is not the default.
EXCEPTIONS: dict[str, tuple[Answer, Answer, Answer, Answer]] = {
    # Staff cannot place orders for other users.
    "POST /orders": (NO_USER, NO_USER, 201, NO_USER),
}


def policy() -> dict[str, dict[str, str]]:
    """Return what each caller gets from each operation, like ``404 USER_NOT_FOUND``."""
    return {str(operation): {caller: shown(row[caller]) for caller in row} for operation, row in _rows()}


def shown(answer: Answer) -> str:
    """Return a response as text: the status, and the code of an error."""
    return str(answer) if isinstance(answer, int) else " ".join(map(str, answer))


def _rows() -> list[tuple[Operation, dict[str, Answer]]]:
    rows = []
    for operation in operations():
        if str(operation) in PUBLIC:
            row: dict[str, Answer] = dict.fromkeys((*STRANGERS, *KNOWN), operation.declared.success.status)
        else:
            answers = EXCEPTIONS.get(str(operation)) or _default(operation)
            known: dict[str, Answer] = dict(zip(KNOWN, answers, strict=True))
            row = {**dict.fromkeys(STRANGERS, UNAUTHORIZED), **known}
        rows.append((operation, row))
    return rows


def _default(operation: Operation) -> tuple[Answer, Answer, Answer, Answer]:
    not_found = [(error.status, error.code) for error in operation.declared.errors if error.status == 404]
    if len(not_found) != 1:
        raise LookupError(f"{operation} does not declare one 404; add it to EXCEPTIONS in {__file__}")
    success = operation.declared.success.status
    return not_found[0], not_found[0], success, success
