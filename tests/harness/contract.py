"""The contract, held against every answer that a test gets: what the served description does not say must not happen.

`check` looks at an answer of the in-process client: its path and method are described, its status and code, its headers
are there, and its body is as the schema has it. What was seen is noted, so that at the end of a whole run the other
direction can be asked as well: what is described and was never seen (`never_seen`).
"""

import json
import re
import threading
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Any

from jsonschema_rs import Draft202012Validator
from webtest import TestResponse

from shop.api.openapi.description import describe
from shop.app import make_routes
from tests.harness.findings import Answer, findings
from tests.harness.operations import parts

# Described answers that no test in its own process can get, each with the reason.
NOT_TO_BE_SEEN: dict[Answer, str] = {}
# Answers that belong to no operation: the path, or the method, is none of the API's.
OUTSIDE = {
    (400, "BAD_REQUEST"),
    (404, "NOT_FOUND"),
    (405, "METHOD_NOT_ALLOWED"),
    (408, "REQUEST_TIMEOUT"),
    (413, "PAYLOAD_TOO_LARGE"),
}


def check(method: str, path: str, response: TestResponse) -> None:
    """Hold an answer against the description.

    Args:
        method: The request's method.
        path: Its path, with or without a query.
        response: The answer.

    Raises:
        AssertionError: The description does not have it; the text names operation, status and what is wrong.
    """
    if method == "OPTIONS":
        return
    status = response.status_int
    has_problem = response.content_type == "application/problem+json" and method != "HEAD"
    code = response.json["code"] if has_problem else None
    # HEAD is GET without the body, and then without the code: it is held to the status and the headers.
    operation = _operation("get" if method == "HEAD" else method.lower(), path.partition("?")[0])
    found_nothing = (status, code) == (404, "NOT_FOUND")
    if operation is None or (found_nothing and (operation["operationId"], status, code) not in described_answers()):
        what = f"{status} {code} is no answer to a path or a method that is not there"
        _expect((status, code) in OUTSIDE, f"{method} {path}", what)
        return
    name = f"{operation['operationId']} ({method} {path[:60]})"
    described = operation["responses"].get(str(status))
    _expect(described is not None, name, f"the status {status} is not described")
    for header, facts in described["headers"].items():
        _expect(header in response.headers or not facts.get("required"), name, f"{status} lacks the header {header}")
    if method != "HEAD":
        _check_body(name, described, response)
        findings.answers[operation["operationId"], status, code] += 1
        if threading.current_thread() is not threading.main_thread():
            # Tests take threads to send requests at the same moment, and for nothing else.
            findings.raced.add(operation["operationId"])


def never_seen(seen: AbstractSet[Answer]) -> list[Answer]:
    """Return the described answers that are not among `seen` and have no reason to be absent."""
    return sorted(described_answers() - seen - NOT_TO_BE_SEEN.keys(), key=str)


@cache
def described_answers() -> frozenset[Answer]:
    """Return every answer that the description has."""
    found: set[Answer] = set()
    for methods in description()["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                schema = response["content"].get("application/problem+json", {}).get("schema")
                codes = schema["allOf"][1]["properties"]["code"]["enum"] if schema else [None]
                found |= {(operation["operationId"], int(status), code) for code in codes}
    return frozenset(found)


@cache
def description() -> dict[str, Any]:
    """Return the description, as the application serves it."""
    return describe(make_routes(parts()))


def _check_body(name: str, described: dict[str, Any], response: TestResponse) -> None:
    content = described["content"].get(response.content_type)
    _expect(content is not None, name, f"{response.status_int} has the media type {response.content_type}")
    if "schema" not in content:
        return
    faults = _validator(_frozen(content["schema"])).iter_errors(response.json)
    listed = "; ".join(sorted(f"{_place(fault.instance_path)}: {fault.message[:200]}" for fault in faults))
    _expect(not listed, name, f"the body of {response.status_int} is not as described: {listed}")


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({**json.loads(schema), "components": description()["components"]})


def _place(path: list[str | int]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _frozen(schema: dict[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True)


def _operation(method: str, path: str) -> dict[str, Any] | None:
    for pattern, methods in _patterns():
        if pattern.fullmatch(path):
            return methods.get(method)
    return None


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], dict[str, Any]], ...]:
    """Return the templates as patterns, those without a name in them first: ``/users/login`` is no user."""
    ordered = sorted(description()["paths"].items(), key=lambda item: item[0].count("{"))
    return tuple((re.compile(re.sub(r"{\w+}", "[^/]+", template)), methods) for template, methods in ordered)


def _expect(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise AssertionError(f"{name}: {what}")
