"""The API description as a page for client programmers (docs/api.md), written from the description itself."""

import json
from collections.abc import Iterator
from typing import Any

from shop.api.openapi.description import ALWAYS

Json = dict[str, Any]

HEAD = """\
# The API, for client programmers

Written from the description that the service answers at `/openapi.json`, by `shop openapi --markdown > docs/api.md`.

{introduction}
## How to talk to it

- Send JSON with `Content-Type: application/json`; bodies are read up to 1 MiB. Numbers may be written in any way that
  JSON has; `2`, `2.0` and `2e0` are one number.
- Register, log in, and send the token as `Authorization: Bearer …`. When a 401 carries `error="invalid_token"`, log
  in again.
- Decide by `code`, not by the words of `error`. `errors` names every field at fault, so that a form can show them all
  at once.
- Quote `requestId` (it is in the header `X-Request-ID` as well) when you ask about an answer.
- Every answer has `X-Request-ID`, `X-Content-Type-Options: nosniff` and `Cache-Control`, which is `no-store` but for
  what `/docs` is made of.

## How to retry safely

- `GET` and `HEAD` may always be sent again.
- `POST /orders` may be sent again with the `Idempotency-Key` of the first attempt: whether that was lost on its way
  here or on the way back, there is one order, and a replay says so with `Idempotent-Replayed: true`. Make a new key,
  a UUID say, for each order that a person wants, and keep it until you have an answer. A key that comes with another
  body is a 422, `IDEMPOTENCY_KEY_REUSED`.
- `POST /users` sent again is a 409, `EMAIL_EXISTS`, when the first attempt had arrived: log in to find out.
- `PATCH /orders/{{order_id}}` sent again is a 409, `INVALID_TRANSITION`, that says where the order is: when it is
  where you wanted it, the first attempt had arrived.
- 503 and 429 carry `Retry-After`, in seconds. Anything else in the 4xx will be answered the same until the request
  changes.

## Operations
"""


def render(description: Json) -> str:
    """Return the page of `description`, an OpenAPI document."""
    lines = [HEAD.format(introduction=description["info"]["description"])]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            lines += _operation(method.upper(), path, operation)
    lines += ["## Schemas", ""]
    for name, schema in sorted(description["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield from (f"### {method} {path}", "", f"{operation['summary']} (`{operation['operationId']}`)", "")
    yield from ("Needs a token." if operation["security"] else "Needs no token.", "")
    parameters = operation.get("parameters", [])
    if parameters:
        yield from ("| parameter | in | what it may be | meaning |", "|---|---|---|---|")
        for parameter in parameters:
            what = _type(parameter["schema"])
            yield f"| `{parameter['name']}` | {parameter['in']} | {what} | {parameter['description']} |"
        yield ""
    if "requestBody" in operation:
        yield from (f"Takes {_type(operation['requestBody']['content']['application/json']['schema'])}.", "")
    yield from ("| status | answer | headers |", "|---|---|---|")
    for status, response in operation["responses"].items():
        schema = next(iter(response["content"].values())).get("schema", {})
        what = response["description"] if "allOf" in schema else f"{response['description']}: {_type(schema)}"
        headers = ", ".join(f"`{name}`" for name in response["headers"] if name not in ALWAYS)
        yield f"| {status} | {what.removesuffix(': ')} | {headers} |"
    yield ""


def _schema(name: str, schema: Json) -> Iterator[str]:
    yield from (f"### {name}", "", " ".join(schema.get("description", "").split()), "")
    yield from ("| field | | what it may be | example |", "|---|---|---|---|")
    for field, facts in schema["properties"].items():
        needed = "required" if field in schema.get("required", ()) else "optional"
        examples = facts.get("examples", [])
        example = f"`{json.dumps(examples[0], ensure_ascii=False)}`" if examples else ""
        yield f"| `{field}` | {needed} | {_type(facts)} | {example} |"
    yield ""


def _type(schema: Json) -> str:
    """Say in words what a value of `schema` may be."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(variant) for variant in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return _limited(f"array of {_type(schema['items'])}", schema, "minItems", "maxItems", "items")
    words = " ".join(filter(None, [schema.get("format"), schema.get("type", "")]))
    words = _limited(words, schema, "minLength", "maxLength", "characters")
    words = _limited(words, schema, "minimum", "maximum", "")
    return ", ".join(filter(None, [words, schema.get("description", "")]))


def _limited(words: str, schema: Json, low: str, high: str, unit: str) -> str:
    least, most = schema.get(low), schema.get(high)
    if least is None and most is None:
        return words
    if most is None:
        limits = f"at least {least}"
    elif least is None:
        limits = f"at most {most}"
    else:
        limits = f"{least} to {most}"
    return f"{words}, {limits} {unit}".strip()
