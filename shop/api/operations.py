"""The decorator `operation`: one declaration validates the requests of a responder, documents it, and drives its tests.

    @operation(
        "placeOrder",
        body=schemas.NewOrder,
        headers=schemas.OrderHeaders,
        success=Success(201, "The order", response_schemas.Order, ("Location",)),
        errors=(UserNotFound, IdempotencyKeyReused),
    )
    def on_post(self, request, response, body, headers): ...

The declared body, query and headers are read, validated, and passed to the responder as arguments. The first line of
the responder's docstring is the summary. A responder without a declaration needs a token and gets no arguments.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, NamedTuple

import falcon

from shop import errors
from shop.api import parsing
from shop.api.context import Request
from shop.api.parsing import Schema
from shop.errors import MissingFields, ShopError, ValidationFailed

Responder = Callable[..., None]
ErrorClass = type[ShopError]


class Success(NamedTuple):
    """A successful response.

    Attributes:
        schema: The model of its JSON body; None for another kind of body.
        headers: Names of the headers that it always has.
        sometimes: Names of the headers that it has under some conditions.
        media_types: The media types that its body may have.
    """

    status: int
    description: str
    schema: Schema | None
    headers: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)


class Operation(NamedTuple):
    """What `operation` declares. The responder has it as its attribute `operation`.

    Attributes:
        id: Its name in the OpenAPI document, and in clients generated from it.
        summary: The first line of the responder's docstring.
        errors: All errors that it may answer with, including those that every operation has.
        body, query, headers: The models of the parts of its request.
        is_public: Whether it needs no token.
    """

    id: str
    summary: str
    success: Success
    errors: tuple[ErrorClass, ...]
    body: Schema | None
    query: Schema | None
    headers: Schema | None
    is_public: bool


def operation(
    id: str,  # noqa: A002 - OpenAPI's name for it.
    *,
    success: Success,
    errors: tuple[ErrorClass, ...] = (),
    body: Schema | None = None,
    query: Schema | None = None,
    headers: Schema | None = None,
    is_public: bool = False,
    slot: Callable[[Any], AbstractContextManager[None]] | None = None,
) -> Callable[[Responder], Responder]:
    """Return a decorator that declares a responder's operation; for most arguments see `Operation`.

    `slot` takes the resource and returns a context manager that limits how many requests run at once. It is entered
    after the body is read, so that slow clients hold no slot, and before the body is parsed, so that a rejection is
    cheap.
    """
    parts = {"body": body, "query": query, "headers": headers}
    schemas = {part: schema for part, schema in parts.items() if schema}
    all_errors = (*_common_errors(schemas, is_public), *errors)

    def decorate(responder: Responder) -> Responder:
        @wraps(responder)
        def respond(self: Any, request: Request, response: falcon.Response, **params: Any) -> None:
            responder(self, request, response, **params, **parsing.parse(request, schemas))

        @wraps(responder)
        def respond_in_slot(self: Any, request: Request, response: falcon.Response, **params: Any) -> None:
            if body:
                request.context.body = parsing.read_body(request)
            with slot(self):  # type: ignore[misc] # Used only if there is a slot.
                respond(self, request, response, **params)

        # Without schemas there is nothing to parse, and one call less.
        chosen: Any = respond_in_slot if slot else respond if schemas else responder
        summary = str(responder.__doc__).partition("\n")[0].removesuffix(".")
        chosen.operation = Operation(id, summary, success, all_errors, **parts, is_public=is_public)
        made: Responder = chosen
        return made

    return decorate


def _common_errors(schemas: dict[str, Schema], is_public: bool) -> tuple[ErrorClass, ...]:
    """Return the errors of every operation, and those that follow from its schemas and from its need of a token."""
    common: tuple[ErrorClass, ...] = (
        errors.BadRequest,
        errors.PayloadTooLarge,
        errors.InternalError,
        errors.ServiceUnavailable,
    )
    if "body" in schemas:
        common += (errors.MalformedJson, errors.UnsupportedMediaType, MissingFields)
    if schemas:
        common += (ValidationFailed,)
    return common if is_public else (*common, errors.Unauthorized)
