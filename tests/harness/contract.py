"""The contract, held against every answer that a test gets: what the served description does not say must not happen.

`check` looks at an answer of the in-process client: its path and method are described, its status and code, its headers
are there, and its body is as the schema has it. What was seen is noted, so that at the end of a whole run the other
direction can be asked as well: what is described and was never seen (`never_seen`).
"""

import json
import re
import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Any

from jsonschema_rs import Draft202012Validator
from webtest import TestResponse

from tests import binding
from tests.harness.findings import Answer, findings

# The methods of an OpenAPI path; what else stands beside them (``parameters``, ``summary``) is no operation.
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
# Described answers that no test in its own process can get, each with the reason.
NOT_TO_BE_SEEN: dict[Answer, str] = getattr(binding, "NOT_TO_BE_SEEN", {})
READING = ("get", "head", "options", "trace")


def check(method: str, path: str, response: TestResponse) -> None:
    """Fail if the description does not have this answer; the failure names operation, status and what is wrong."""
    if method == "OPTIONS" or not description():
        return
    status = response.status_int
    code = binding.code_of(response)
    # HEAD is GET without the body, and then without the code: it is held to the status and the headers.
    operation = _operation("get" if method == "HEAD" else method.lower(), path.partition("?")[0])
    # A template may match a path that the router refuses.
    found_nothing = status == 404 and (404, code) in binding.OUTSIDE
    if operation is None or (found_nothing and (_id(operation), status, code) not in described_answers()):
        what = f"{status} {code} is no answer to a path or a method that is not there"
        _expect((status, code) in binding.OUTSIDE, f"{method} {path}", what)
        return
    name = f"{_id(operation)} ({method} {path[:60]})"
    described = _described(operation, status)
    _expect(described is not None, name, f"the status {status} is not described")
    for header, facts in described.get("headers", {}).items():
        required = _resolved(facts).get("required")
        _expect(header in response.headers or not required, name, f"{status} lacks the header {header}")
    if method != "HEAD":
        _check_body(name, described, response)
        answer = (_id(operation), status, code)
        # Where the description lists no codes, the status alone is the answer.
        findings.answers[answer if answer in described_answers() else (_id(operation), status, None)] += 1
        if threading.current_thread() is not threading.main_thread():
            # Tests take threads only to send requests at the same moment.
            findings.raced.add(_id(operation))


def never_seen(seen: AbstractSet[Answer]) -> list[Answer]:
    """Return the described answers that are not among `seen` and have no reason to be absent."""
    return sorted(described_answers() - seen - NOT_TO_BE_SEEN.keys(), key=str)


@cache
def described_answers() -> frozenset[Answer]:
    """Return every answer that the description has: operation, status, and the code of an error if it has codes."""
    found: set[Answer] = set()
    for _, _, operation in _operations():
        # A range ("4XX") or "default" names no answer that could be waited for.
        for status in filter(str.isdecimal, operation["responses"]):
            content = _described(operation, int(status)).get("content", {}).values()
            codes = {code for media in content for code in _codes(media.get("schema", {}))} if status >= "4" else set()
            found |= {(_id(operation), int(status), code) for code in codes or [None]}
    return frozenset(found)


@cache
def writing_operations() -> frozenset[str]:
    """Return the ids of the operations that may write."""
    return frozenset(_id(operation) for method, _, operation in _operations() if method not in READING)


@cache
def description() -> dict[str, Any]:
    """Return the OpenAPI document; empty when the project has none."""
    return binding.describe() or {}


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for template, methods in description().get("paths", {}).items():
        for method in METHODS:
            if method in methods:
                # Documents may leave out the id.
                yield method, template, {"operationId": f"{method.upper()} {template}"} | methods[method]


def _id(operation: dict[str, Any]) -> str:
    return str(operation["operationId"])


def _described(operation: dict[str, Any], status: int) -> Any:
    responses = operation["responses"]
    found = next((responses[key] for key in (str(status), f"{status // 100}XX", "default") if key in responses), None)
    return found and _resolved(found)


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference within the document refers to, or the node itself."""
    while "$ref" in node:
        found: Any = description()
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step.replace("~1", "/").replace("~0", "~")]
        node = found
    return node


def _codes(schema: dict[str, Any]) -> set[str]:
    """Return the values that a schema allows for the property ``code``."""
    schema = _resolved(schema)
    parts = [part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ())]
    code = _resolved(schema.get("properties", {}).get("code", {}))
    own = {*code.get("enum", ()), *([code["const"]] if "const" in code else [])}
    return own.union(*map(_codes, parts))


def _check_body(name: str, described: dict[str, Any], response: TestResponse) -> None:
    if "content" not in described:
        _expect(not response.body, name, f"{response.status_int} has a body, and none is described")
        return
    content = described["content"].get(response.content_type)
    _expect(content is not None, name, f"{response.status_int} has the media type {response.content_type}")
    if "schema" not in content or "json" not in response.content_type:
        return
    faults = _validator(_frozen(content["schema"])).iter_errors(response.json)
    listed = "; ".join(sorted(f"{_place(fault.instance_path)}: {fault.message[:200]}" for fault in faults))
    _expect(not listed, name, f"the body of {response.status_int} is not as described: {listed}")


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({**json.loads(schema), "components": description().get("components", {})})


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
    paths: dict[str, dict[str, Any]] = {}
    for method, template, operation in _operations():
        paths.setdefault(template, {})[method] = operation
    ordered = sorted(paths.items(), key=lambda item: item[0].count("{"))
    return tuple((re.compile(_pattern(template)), methods) for template, methods in ordered)


def _pattern(template: str) -> str:
    return "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"({[^}]+})", template))


def _expect(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise AssertionError(f"{name}: {what}")
