"""Write the OpenAPI document as a page for client programmers: docs/api.md."""

import json
from collections.abc import Iterator
from typing import Any

from shop.api.openapi.document import ALWAYS

Json = dict[str, Any]

HEAD = """\
# The API, for client programmers

Generated from the OpenAPI document at `/openapi.json` by `shop openapi --markdown --output docs/api.md`.

{introduction}
## Requests and responses

- Send JSON with `Content-Type: application/json`. A body may have up to 1 MiB. Numbers may have any JSON notation: `2`,
  `2.0` and `2e0` are equal.
- Register, log in, and send the token as `Authorization: Bearer …`. After a 401 with `error="invalid_token"`, log in
  again.
- Write programs against `code`, not against the words of `error`. `errors` names every invalid field, so that a form
  can show all of them.
- If you report a problem, quote `requestId`. The header `X-Request-ID` has it too.
- Every response has `X-Request-ID`, `X-Content-Type-Options: nosniff` and `Cache-Control`. The latter is `no-store`,
  except for the parts of `/docs`.

## Retries

- `GET` and `HEAD` are always safe to repeat.
- `POST /orders` is safe to repeat with the `Idempotency-Key` of the first attempt. There is one order, even if the
  first attempt succeeded and its response was lost. The repeated response has `Idempotent-Replayed: true`. Generate a
  new key (a UUID, for instance) for each order, and keep it until you have a response. The same key with another body
  gets a 422 `IDEMPOTENCY_KEY_REUSED`.
- A repeated `POST /users` gets a 409 `EMAIL_EXISTS` if the first attempt succeeded. Log in to find out.
- A repeated `PATCH /orders/{{order_id}}` gets a 409 `INVALID_TRANSITION` that names the order's status. If it is the
  status that you wanted, the first attempt succeeded.
- A 503 and a 429 have `Retry-After`, in seconds. Any other 4xx stays the same until you change the request.

## Operations
"""


def render(openapi: Json) -> str:
    """Return an OpenAPI document as Markdown."""
    lines = [HEAD.format(introduction=openapi["info"]["description"])]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            lines += _operation(method.upper(), path, operation)
    lines += ["## Webhooks", "", "Sent to the endpoints that an operator has registered with `shop webhooks add`.", ""]
    for type_, methods in openapi["webhooks"].items():
        lines += _webhook(type_, methods["post"])
    lines += ["## Schemas", ""]
    for name, schema in sorted(openapi["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield from (f"### {method} {path}", "", f"{operation['summary']} (`{operation['operationId']}`)", "")
    yield from ("Needs a token." if operation["security"] else "Needs no token.", "")
    parameters = operation.get("parameters", [])
    if parameters:
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for parameter in parameters:
            what = _type(parameter["schema"])
            yield f"| `{parameter['name']}` | {parameter['in']} | {what} | {parameter['description']} |"
        yield ""
    if "requestBody" in operation:
        yield from (f"Takes {_type(operation['requestBody']['content']['application/json']['schema'])}.", "")
    yield from ("| status | response | headers |", "|---|---|---|")
    for status, response in operation["responses"].items():
        schema = next(iter(response["content"].values())).get("schema", {})
        what = response["description"] if "allOf" in schema else f"{response['description']}: {_type(schema)}"
        headers = ", ".join(f"`{name}`" for name in response["headers"] if name not in ALWAYS)
        yield f"| {status} | {what.removesuffix(': ')} | {headers} |"
    yield ""


def _webhook(type_: str, operation: Json) -> Iterator[str]:
    yield from (
        f"### {type_}",
        "",
        f"{operation['summary']} (`{operation['operationId']}`)",
        "",
        operation["description"],
    )
    yield from ("| header | meaning |", "|---|---|")
    for parameter in operation["parameters"]:
        yield f"| `{parameter['name']}` | {parameter['description']} |"
    yield from ("", f"Takes {_type(operation['requestBody']['content']['application/json']['schema'])}.", "")
    yield from ("| response | what follows |", "|---|---|")
    for status, response in operation["responses"].items():
        yield f"| {status} | {response['description']} |"
    yield ""


def _schema(name: str, schema: Json) -> Iterator[str]:
    yield from (f"### {name}", "", " ".join(schema.get("description", "").split()), "")
    yield from ("| field | | type | example |", "|---|---|---|---|")
    for field, facts in schema["properties"].items():
        needed = "required" if field in schema.get("required", ()) else "optional"
        examples = facts.get("examples", [])
        example = f"`{json.dumps(examples[0], ensure_ascii=False)}`" if examples else ""
        yield f"| `{field}` | {needed} | {_type(facts)} | {example} |"
    yield ""


def _type(schema: Json) -> str:
    """Return in words which values `schema` allows."""
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
