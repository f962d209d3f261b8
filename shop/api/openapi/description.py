"""The API description (OpenAPI 3.1), made from the operations' declarations."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shop import __version__
from shop.api.openapi import documents
from shop.api.openapi import page as docs
from shop.api.operations import ErrorClass, Operation, Schema

METHODS = ("get", "post", "put", "patch", "delete")
PROBLEM = "application/problem+json"
Json = dict[str, Any]

INTRODUCTION = """\
Register, log in, place an order, follow it.

Ids are UUIDs. Times are RFC 3339 in UTC. Money is a JSON number that is exact to the cent. Unknown fields are rejected
by name. Data of other users gets the same 404 as an unknown id. Every error has the shape `Problem`: its `code` is for
programs, its `error` is a sentence for people.
"""

HEADERS: dict[str, Json] = {
    "X-Request-ID": {"description": "the id of this request, as in the log", "schema": {"type": "string"}},
    "Location": {"description": "the URL of the new resource", "schema": {"type": "string", "format": "uri-reference"}},
    "Link": {"description": 'the next page, `rel="next"`, while there is one', "schema": {"type": "string"}},
    "Cache-Control": {
        "description": "`no-store`; the parts of the page `/docs` may be cached",
        "schema": {"type": "string", "examples": ["no-store"]},
    },
    "X-Content-Type-Options": {
        "description": "the media type is the one that is given",
        "schema": {"type": "string", "const": "nosniff"},
    },
    "Idempotent-Replayed": {
        "description": "`true` when the order had been placed before with this key",
        "schema": {"type": "string", "const": "true"},
    },
    "WWW-Authenticate": {"description": "the challenge of RFC 6750", "schema": {"type": "string"}},
    "Content-Security-Policy": {"description": "what the page may do", "schema": {"type": "string"}},
    "Referrer-Policy": {"description": "the page names itself to nobody", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "seconds to wait before trying again",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
}
# Headers that every answer has.
ALWAYS = ("X-Request-ID", "Cache-Control", "X-Content-Type-Options")
# Headers that every answer of a status has besides.
OF_STATUS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
PARAMETERS = {
    "user_id": "the user's id",
    "order_id": "the order's id",
    "asset": "the name of a script or style sheet",
    "limit": "the maximum number of orders on a page",
    "cursor": "`nextCursor` of the previous page; valid only for the same user and the same `status`",
    "status": "only orders of this status",
    "Idempotency-Key": "a unique name such as a UUID; a repeated request with the same key places no second order",
}
# A malformed id gets the same 404 as an unknown one.
PATH_PARAMETERS: dict[str, Json] = {
    "user_id": {"type": "string", "format": "uuid"},
    "order_id": {"type": "string", "format": "uuid"},
    "asset": {"type": "string", "enum": sorted(docs.ASSETS)},
}
# An operation is listed under the last segment of its path that is one of these, else under the last of these.
TAGS = {
    "users": "Register, log in, and see who you are",
    "orders": "Place orders and follow them",
    "service": "How the service is, and what it can do",
}


def describe(routes: Mapping[str, object]) -> Json:
    """Return the OpenAPI document of the operations in `routes`, a table of templates and resources."""
    found = list(_operations(routes))
    names, schemas = _schemas(operation for _, _, operation in found)
    paths: Json = {}
    for template, method, operation in found:
        paths.setdefault(template, {})[method] = _operation(template, operation, names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "shop",
            "version": __version__,
            "description": INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "the `token` that `POST /users/login` answers with",
                }
            },
        },
    }


def _operations(routes: Mapping[str, object]) -> Iterator[tuple[str, str, Operation]]:
    for template, resource in routes.items():
        for method in METHODS:
            operation = getattr(getattr(resource, f"on_{method}", None), "operation", None)
            if operation is not None:
                yield template, method, operation


def _operation(template: str, operation: Operation, names: Mapping[Schema, Json]) -> Json:
    described: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [next((segment for segment in reversed(template.split("/")) if segment in TAGS), [*TAGS][-1])],
        "security": [] if operation.is_public else [{"bearer": []}],
        "responses": dict(sorted(_responses(operation, names))),
    }
    parameters = [
        *_path_parameters(template),
        *_parameters("query", operation.query),
        *_parameters("header", operation.headers),
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        content = {"application/json": {"schema": names[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _responses(operation: Operation, names: Mapping[Schema, Json]) -> Iterator[tuple[str, Json]]:
    success = operation.success
    yield (
        str(success.status),
        {
            "description": success.description,
            "headers": _headers((*ALWAYS, *success.headers), success.sometimes),
            "content": {
                media_type: {"schema": names[success.schema]} if success.schema else {}
                for media_type in success.media_types
            },
        },
    )
    by_status: dict[int, list[ErrorClass]] = {}
    for error in operation.errors:
        by_status.setdefault(error.status, []).append(error)
    for status, errors in by_status.items():
        codes = sorted({error.code for error in errors})
        schema = {
            "allOf": [names[documents.Problem], {"properties": {"status": {"const": status}, "code": {"enum": codes}}}]
        }
        yield (
            str(status),
            {
                "description": "; ".join(f"`{error.code}`: {error.sentence}" for error in errors),
                "headers": _headers((*ALWAYS, *OF_STATUS.get(status, ()))),
                "content": {PROBLEM: {"schema": schema}},
            },
        )


def _headers(always: tuple[str, ...], sometimes: tuple[str, ...] = ()) -> Json:
    # A header that is not always there stands as a copy: `required` is a property of the header itself.
    return {name: HEADERS[name] | {"required": True} for name in always} | {name: HEADERS[name] for name in sometimes}


def _path_parameters(template: str) -> Iterator[Json]:
    for segment in template.split("/"):
        if segment.startswith("{"):
            name = segment.strip("{}")
            yield {
                "name": name,
                "in": "path",
                "required": True,
                "description": PARAMETERS[name],
                "schema": PATH_PARAMETERS[name],
            }


def _parameters(place: str, schema: Schema | None) -> Iterator[Json]:
    if schema is None:
        return
    described = schema.model_json_schema(by_alias=True)
    for name, field in described["properties"].items():
        variants = [variant for variant in field.pop("anyOf", [field]) if variant != {"type": "null"}]
        # No example: what is optional would be filled in by the page, with a cursor or a key that is nobody's.
        kept = {key: variants[0][key] for key in variants[0] if key not in ("title", "default", "examples")}
        if field.get("default") is not None:
            kept["default"] = field["default"]
        yield {
            "name": name,
            "in": place,
            "required": False,
            "description": PARAMETERS[name],
            "schema": kept,
        }


def _schemas(operations: Iterator[Operation]) -> tuple[dict[Schema, Json], Json]:
    """Return a reference to each model, and the components that they refer to."""
    taken: set[Schema] = set()
    given: set[Schema] = {documents.Problem}
    for operation in operations:
        if operation.success.schema:
            given.add(operation.success.schema)
        if operation.body:
            taken.add(operation.body)
    models: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in taken]
    models += [(model, "serialization") for model in given]
    references, definitions = models_json_schema(
        sorted(models, key=lambda model: model[0].__name__), ref_template="#/components/schemas/{model}"
    )
    return {model: references[model, mode] for model, mode in models}, _untitled(definitions["$defs"])


def _untitled(schemas: Json) -> Json:
    """Leave out the titles that pydantic makes of the fields' names."""
    for schema in schemas.values():
        for field in schema["properties"].values():
            field.pop("title", None)
    return schemas
