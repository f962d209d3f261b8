"""The operations of the API from the route table, with valid examples and documented responses.

Tests that enumerate operations use this, so they test new routes and new fields of schemas, too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

from shop.api import operations as api
from shop.api.parsing import Schema
from shop.app import Services, make_routes
from shop.settings import Settings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
Answer = tuple[int, str]


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        method: The HTTP method.
        template: The path, with names in braces for what varies.
        declared: Its declaration.
    """

    method: str
    template: str
    declared: api.Operation

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters in the path."""
        return re.findall(r"{(\w+)}", self.template)

    def path(self, **values: str) -> str:
        """Return the path with `values` for its parameters."""
        return self.template.format_map({"asset": "docs.js"} | values)


@cache
def services() -> Services:
    """Return the services of the resources, good for inspecting the resources but not for requests."""
    return Services(Settings.load(secret_key=SecretStr("only looked at, never used to sign anything")))


@cache
def operations() -> tuple[Operation, ...]:
    """Return every operation of the route table.

    Raises:
        AttributeError: A responder has no declaration.
    """
    return tuple(
        Operation(method, template, responder.operation)
        for template, resource in make_routes(services()).items()
        for method in METHODS
        if (responder := getattr(resource, f"on_{method.lower()}", None))
    )


def example(schema: Schema) -> dict[str, Any]:
    """Return a valid document from the first example of each required field, nested models included.

    Raises:
        LookupError: A field has no example; give it one, so that the tests can reach behind it.
    """
    document = {}
    for name, field in schema.model_fields.items():
        outside = field.alias or name
        inner = _model(field.annotation)
        if inner is not None:
            document[outside] = [example(inner)] if _is_list(field.annotation) else example(inner)
        elif not field.examples:
            raise LookupError(f"{schema.__name__}.{name} has no example")
        elif field.is_required():
            document[outside] = field.examples[0]
    return document


def fields(schema: Schema, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every field of a document, including containers and optional fields."""
    for name, field in schema.model_fields.items():
        here = (*path, field.alias or name)
        yield here
        inner = _model(field.annotation)
        if inner is not None:
            if _is_list(field.annotation):
                here = (*here, 0)
                yield here
            yield from fields(inner, here)


def documented(operation: Operation) -> frozenset[Answer]:
    """Return the errors that `operation` declares, as status and code."""
    return frozenset((error.status, error.code) for error in operation.declared.errors)


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation like ``Model``, ``list[Model]`` or ``Model | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model, get_args(annotation))), None)


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is list
