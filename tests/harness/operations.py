"""The operations of the API, found in the route table, with a valid example of each and its documented answers.

Tests that enumerate are built on this: a new route, or a new field of a schema, joins them by itself.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from shop.api.parsing import Schema, Takes
from shop.app import make_parts, make_routes
from tests.harness.cases import make_settings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
README = Path(__file__).resolve().parents[2] / "README.md"
Answer = tuple[int, str]


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        method: The HTTP method.
        template: The path, with names in braces for what varies.
        takes: The parts of a request that it declares.
    """

    method: str
    template: str
    takes: Takes

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def parameters(self) -> list[str]:
        """The names in braces."""
        return re.findall(r"{(\w+)}", self.template)

    def path(self, **values: str) -> str:
        """Return the path with its names replaced."""
        return self.template.format_map(values)


@cache
def operations() -> tuple[Operation, ...]:
    """Return every operation of the route table."""
    return tuple(
        Operation(method, template, getattr(responder, "takes", Takes(None, None, None)))
        for template, resource in make_routes(make_parts(make_settings())).items()
        for method in METHODS
        if (responder := getattr(resource, f"on_{method.lower()}", None))
    )


def example(schema: Schema) -> dict[str, Any]:
    """Return a valid document: the first example of each field that has to be there, models and lists of them filled.

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
    """Yield the way to every field of a document, containers included, optional ones too."""
    for name, field in schema.model_fields.items():
        here = (*path, field.alias or name)
        yield here
        inner = _model(field.annotation)
        if inner is not None:
            if _is_list(field.annotation):
                here = (*here, 0)
                yield here
            yield from fields(inner, here)


@cache
def documented(operation: Operation) -> frozenset[Answer]:
    """Return the errors that the README's contract lists for `operation`, with those of every request.

    Raises:
        LookupError: The contract has no row for it.
    """
    readme = README.read_text("utf-8")
    pattern = re.sub(r"{\w+}", "{id}", str(operation))
    for row in re.findall(r"^\| (`.*) \| .* \| .* \| (.*) \|$", readme, re.M):
        if re.search(rf"`{re.escape(pattern)}[`? ]", row[0]):
            return _answers(row[1]) | _answers(_paragraph(readme, "Any request may also be answered with"))
    raise LookupError(f"the contract in the README has no row for {pattern}")


def _answers(text: str) -> frozenset[Answer]:
    return frozenset((int(status), code) for status, code in re.findall(r"(\d{3})\s+`([A-Z_]+)`", text))


def _paragraph(text: str, beginning: str) -> str:
    return text[text.index(beginning) :].split("\n\n", 1)[0]


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation like ``Model``, ``list[Model]`` or ``Model | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model, get_args(annotation))), None)


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is list
