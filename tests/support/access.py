"""Who may call which operation: the access matrix, which `tests.integration.test_access` tries."""

from tests.support.operations import operations

REFUSED = (401, "UNAUTHORIZED")
NO_USER = (404, "USER_NOT_FOUND")
NO_ORDER = (404, "ORDER_NOT_FOUND")
Answer = int | tuple[int, str]

# Callers without a valid token get the same everywhere: refused, or served where no token is needed.
STRANGERS = ("no token", "malformed", "expired", "wrong signature", "alg none")
KNOWN = ("deleted user", "another user", "owner", "staff")
# What callers with a valid token get, in the order of `KNOWN`; None where no token is needed and all are served alike.
POLICY: dict[str, tuple[Answer, Answer, Answer, Answer] | None] = {
    "POST /users": None,
    "POST /users/login": None,
    "GET /users/{user_id}": (NO_USER, NO_USER, 200, 200),
    "GET /users/{user_id}/orders": (NO_USER, NO_USER, 200, 200),
    "POST /orders": (NO_USER, NO_USER, 201, NO_USER),
    "GET /orders/{order_id}": (NO_ORDER, NO_ORDER, 200, 200),
    # The example body cancels, which an owner may.
    "PATCH /orders/{order_id}": (NO_ORDER, NO_ORDER, 200, 200),
    "GET /orders/{order_id}/events": (NO_ORDER, NO_ORDER, 200, 200),
    "GET /livez": None,
    "GET /readyz": None,
    "GET /openapi.json": None,
    "GET /docs": None,
    "GET /docs/{asset}": None,
}


def policy() -> dict[str, dict[str, str]]:
    """Return for each operation that has a row what each kind of caller gets, like ``404 USER_NOT_FOUND``."""
    matrix = {}
    for operation in operations():
        row = POLICY.get(str(operation))
        success = str(operation.declared.success.status)
        if row is not None:
            refused = dict.fromkeys(STRANGERS, shown(REFUSED))
            matrix[str(operation)] = refused | dict(zip(KNOWN, map(shown, row), strict=True))
        elif str(operation) in POLICY:
            matrix[str(operation)] = dict.fromkeys((*STRANGERS, *KNOWN), success)
    return matrix


def shown(answer: Answer) -> str:
    """Return an answer as text: the status, and the code of an error."""
    return str(answer) if isinstance(answer, int) else " ".join(map(str, answer))
