"""What a reader of the API description knows and schemathesis cannot: rules that it has in words only."""

import json
import os
import unicodedata
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import EnsureResourceAvailability, RejectedPositiveData

# The id of the user who sends the requests.
OWN_ID = os.environ["FUZZ_USER_ID"]
MAX_PRICE = 99_999.99
# What one reader of regular expressions takes for a space (\s) and another does not.
DOUBTFUL_SPACES = frozenset("\x1c\x1d\x1e\x1f\x85\ufeff")
# Fields whose rule JSON Schema has no words for, by operation.
IN_WORDS_ONLY = {
    "listOrders": {"cursor"},  # Only the service can write one.
    "placeOrder": {"items"},  # The total of the order has a limit.
}


@schemathesis.hook
def filter_body(_context: schemathesis.HookContext, body: Any) -> bool:
    """Leave out text whose length or blankness is a matter of opinion.

    JSON Schema counts characters as they come, the service those of normal form C.
    """
    return not any(
        not DOUBTFUL_SPACES.isdisjoint(text) or len(text) != len(unicodedata.normalize("NFC", text))
        for text in _texts(body)
    )


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Round the prices of an order to the cent, which JSON Schema cannot ask for: 19.99 is no multiple of 0.01."""
    if context.operation.definition.raw["operationId"] == "placeOrder" and isinstance(body, dict):
        items = body.get("items")
        for item in items if isinstance(items, list) else []:
            price = item.get("price") if isinstance(item, dict) else None
            # What is wrong stays wrong.
            if isinstance(price, float) and 0 <= price <= MAX_PRICE:
                item["price"] = round(price, 2)
    return body


@schemathesis.hook
def flatmap_body(_context: schemathesis.HookContext, body: Any) -> st.SearchStrategy[Any]:
    """Order for oneself every other time: an order for somebody else gets a 404."""
    if isinstance(body, dict) and _is_id(body.get("userId")):
        return st.sampled_from([body, body | {"userId": OWN_ID}])
    return st.just(body)


@schemathesis.hook
def flatmap_path_parameters(
    _context: schemathesis.HookContext, path_parameters: dict[str, Any]
) -> st.SearchStrategy[dict[str, Any]]:
    """Ask for oneself every other time."""
    if path_parameters and _is_id(path_parameters.get("user_id")):
        return st.sampled_from([path_parameters, path_parameters | {"user_id": OWN_ID}])
    return st.just(path_parameters)


@schemathesis.hook
def flatmap_query(_context: schemathesis.HookContext, query: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Leave out a cursor three times of four: one that the service has not written is refused before all else."""
    if query and isinstance(query.get("cursor"), str):
        without = {name: value for name, value in query.items() if name != "cursor"}
        return st.sampled_from([without, without, without, query])
    return st.just(query)


@schemathesis.hook
def filter_failure(
    _context: schemathesis.HookContext, failure: Failure, case: schemathesis.Case, response: schemathesis.Response
) -> bool:
    """Tell whether a failure is one."""
    operation = case.operation.definition.raw["operationId"]
    if isinstance(failure, EnsureResourceAvailability):
        # A customer who registers somebody else does not see that user: what is not yours does not exist for you.
        return operation not in ("getUser", "listOrders") or os.environ["FUZZ_USER"] == "staff"
    if isinstance(failure, RejectedPositiveData):
        problem = json.loads(response.content)
        if problem["code"] == "IDEMPOTENCY_KEY_REUSED":
            return False
        faulty = {fault["field"] for fault in problem.get("errors", [])}
        return not faulty or not faulty <= IN_WORDS_ONLY.get(operation, set())
    return True


def _is_id(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(UUID(value)) == value
    except ValueError:
        return False


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for child in value.values() for text in _texts(child))
    elif isinstance(value, list):
        yield from (text for child in value for text in _texts(child))
