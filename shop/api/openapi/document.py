"""Build the OpenAPI 3.1 document of the API from the declarations of its operations."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic.json_schema import JsonSchemaMode, models_json_schema

from shop import __version__
from shop.api.openapi.page import ASSETS
from shop.api.operations import ErrorClass, Operation
from shop.api.parsing import Schema
from shop.api.problems import MEDIA_TYPE
from shop.api.response_schemas import WEBHOOKS, Problem

WEBHOOK = """\
The request follows [Standard Webhooks](https://www.standardwebhooks.com). Verify the signature, answer 2xx within
10 seconds, and ignore events whose `webhook-id` you have seen: an event is sent at least once.
"""
WEBHOOK_HEADERS = {
    "webhook-id": "the event's id, the same at each attempt",
    "webhook-timestamp": "when this attempt was made, in seconds since 1970",
    "webhook-signature": "signatures with the endpoint's secret, `v1,…`; separated by spaces if there are several",
}
METHODS = ("get", "post", "put", "patch", "delete")
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
        "description": "`no-store`; the page `/docs` and its assets may be cached",
        "schema": {"type": "string", "examples": ["no-store"]},
    },
    "X-Content-Type-Options": {
        "description": "forbids the browser to guess another media type",
        "schema": {"type": "string", "const": "nosniff"},
    },
    "Idempotent-Replayed": {
        "description": "`true` if the order was placed before with this key",
        "schema": {"type": "string", "const": "true"},
    },
    "WWW-Authenticate": {"description": "the challenge of RFC 6750", "schema": {"type": "string"}},
    "Content-Security-Policy": {"description": "what the page may do", "schema": {"type": "string"}},
    "Referrer-Policy": {"description": "links from the page send no `Referer`", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "seconds to wait before a retry",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
}
# Every response has these headers.
ALWAYS = ("X-Request-ID", "Cache-Control", "X-Content-Type-Options")
# Every response of these statuses has further headers.
OF_STATUS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
# Parameters of paths. All others are ids of resources, such as `user_id`.
PATH_PARAMETERS: dict[str, Json] = {
    "asset": {
        "description": "the name of a script or style sheet",
        "schema": {"type": "string", "enum": sorted(ASSETS)},
    }
}
# The tag of an operation is the last segment of its path that is a key here, or else the last key.
TAGS = {
    "users": "Register, log in, and see who you are",
    "orders": "Place orders and follow them",
    "service": "How the service is, and what it can do",
}


def build_openapi(routes: Mapping[str, object]) -> Json:
    """Return the OpenAPI document of the operations in a route table."""
    found = list(_operations(routes))
    names, schemas = _schemas(operation for *_, operation in found)
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
        "webhooks": {type_: {"post": _webhook(type_, names)} for type_ in WEBHOOKS},
        "components": {
            "schemas": schemas,
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "the `token` in the response of `POST /users/login`",
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
        schema = {"allOf": [names[Problem], {"properties": {"status": {"const": status}, "code": {"enum": codes}}}]}
        yield (
            str(status),
            {
                "description": "; ".join(f"`{error.code}`: {error.sentence}" for error in errors),
                "headers": _headers((*ALWAYS, *OF_STATUS.get(status, ()))),
                "content": {MEDIA_TYPE: {"schema": schema}},
            },
        )


def _webhook(type_: str, names: Mapping[Schema, Json]) -> Json:
    model = WEBHOOKS[type_]
    return {
        "operationId": f"receive{model.__name__.removesuffix('Webhook')}",
        "summary": f"Receive the event {type_}",
        "description": WEBHOOK,
        # The signature stands in place of a token.
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": words, "schema": {"type": "string"}}
            for name, words in WEBHOOK_HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": names[model]}}},
        "responses": {
            "2XX": {"description": "The event is accepted"},
            "410": {"description": "No further events are wanted: the endpoint is disabled"},
            "default": {"description": "The event is sent again later"},
        },
    }


def _headers(always: tuple[str, ...], sometimes: tuple[str, ...] = ()) -> Json:
    # Copied, because `required` is a property of the header object.
    return {name: HEADERS[name] | {"required": True} for name in always} | {name: HEADERS[name] for name in sometimes}


def _path_parameters(template: str) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", template):
        # A malformed id gets the same 404 as an unknown one.
        id_ = {"description": f"the {name.removesuffix('_id')}'s id", "schema": {"type": "string", "format": "uuid"}}
        yield {"name": name, "in": "path", "required": True, **PATH_PARAMETERS.get(name, id_)}


def _parameters(place: str, schema: Schema | None) -> Iterator[Json]:
    if schema is None:
        return
    for name, field in schema.model_json_schema(by_alias=True)["properties"].items():
        type_ = next(variant for variant in field.get("anyOf", [field]) if variant != {"type": "null"})
        # Without examples: the page /docs would fill in an invalid cursor or a used key.
        described = {key: value for key, value in type_.items() if key not in ("title", "description", "examples")}
        yield {
            "name": name,
            "in": place,
            "required": False,
            "description": field["description"],
            "schema": described,
        }


def _schemas(operations: Iterable[Operation]) -> tuple[dict[Schema, Json], Json]:
    """Return a reference to each model, and the components that they refer to."""
    models: set[tuple[Schema, JsonSchemaMode]] = {(Problem, "serialization")}
    models |= {(model, "serialization") for model in WEBHOOKS.values()}
    for operation in operations:
        if operation.success.schema:
            models.add((operation.success.schema, "serialization"))
        if operation.body:
            models.add((operation.body, "validation"))
    references, definitions = models_json_schema(
        sorted(models, key=lambda model: model[0].__name__), ref_template="#/components/schemas/{model}"
    )
    for schema in definitions["$defs"].values():
        for field in schema["properties"].values():
            # pydantic makes it from the name of the field.
            field.pop("title", None)
    return {model: references[model, mode] for model, mode in models}, definitions["$defs"]
