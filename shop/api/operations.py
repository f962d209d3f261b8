"""Operations: one declaration of each validates its requests, documents it, and is what the tests hold it against.

    @operation(
        "placeOrder",
        "Place an order",
        body=schemas.NewOrder,
        headers=schemas.OrderHeaders,
        success=Success(201, "The order", documents.Order, ("Location",)),
        errors=(UserNotFound, IdempotencyKeyReused),
    )
    def on_post(self, request, response, body, headers): ...

What the declaration takes — body, query, headers — is read within limits and validated, with all faults reported at
once, and comes to the responder as arguments. A responder without a declaration needs a token, and takes nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, wraps
from typing import Any, NamedTuple

import falcon
from pydantic import BaseModel, ValidationError

from shop import errors, exactjson
from shop.api.context import Request
from shop.errors import FieldError, MissingFields, ShopError, ValidationFailed

# A hostile body can have a fault every few bytes; an honest one has fewer than this.
MAX_FAULTS = 500
MAX_NAME = 100
SPELLED_OUT = 3

Schema = type[BaseModel]
Responder = Callable[..., None]
Reader = Callable[[Request, type[BaseModel]], dict[str, Any]]
# What an operation takes: the name of each part, how it is read, and what it has to be.
Parts = list[tuple[str, Reader, Schema]]
ErrorClass = type[ShopError]


class Success(NamedTuple):
    """A successful answer.

    Attributes:
        status: Its status.
        description: What it is, in a few words.
        schema: The model of its body; None for a body that is no JSON.
        headers: Names of the headers it always has.
        sometimes: Names of headers that it has only under conditions.
        media_types: The types that its body may have.
    """

    status: int
    description: str
    schema: Schema | None
    headers: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)


class Operation(NamedTuple):
    """What `operation` declares; it is found again as the responder's `operation`.

    Attributes:
        id: Its name in the API description, and in clients generated from it.
        summary: What it does, in a few words.
        success: The successful answer.
        errors: All errors that it answers with, those included that follow from what it takes.
        body, query, headers: The models of what it takes.
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
    summary: str,
    *,
    success: Success,
    errors: tuple[ErrorClass, ...] = (),
    body: Schema | None = None,
    query: Schema | None = None,
    headers: Schema | None = None,
    is_public: bool = False,
    within: Callable[[Any], AbstractContextManager[None]] | None = None,
) -> Callable[[Responder], Responder]:
    """Return a decorator that declares a responder's operation; for the arguments see `Operation`.

    `within` returns, for a resource, a context to serve the request in. It is entered when the body has come, so that
    who keeps it back takes no room there, and before that is looked at, so that a refusal costs next to nothing.

    The decorated responder gets `body`, `query` and `headers` as keyword arguments, where they are declared, and raises
    for it whatever `errors` derives from them.
    """
    derived = _derived_errors(body, query or headers, is_public)
    declared = Operation(id, summary, success, (*derived, *errors), body, query, headers, is_public)

    def decorate(responder: Responder) -> Responder:
        takes: Parts = [
            (part, read, getattr(declared, part)) for part, read in _READERS.items() if getattr(declared, part)
        ]

        @wraps(responder)
        def respond(self: Any, request: Request, response: falcon.Response, **params: Any) -> None:
            responder(self, request, response, **params, **_parse(request, takes))

        @wraps(responder)
        def respond_within(self: Any, request: Request, response: falcon.Response, **params: Any) -> None:
            if body:
                request.context.body = _read(request, request.context.max_body)
            with within(self):  # type: ignore[misc] # Chosen below where it is given.
                respond(self, request, response, **params)

        chosen: Any = respond_within if within else respond if takes else responder
        # `Authentication` and the description look for it.
        chosen.operation = declared
        made: Responder = chosen
        return made

    return decorate


def _derived_errors(body: Schema | None, others: Schema | None, is_public: bool) -> tuple[ErrorClass, ...]:
    """Return the errors that follow from what an operation takes, and those of every operation."""
    derived: list[ErrorClass] = [
        errors.BadRequest,
        errors.PayloadTooLarge,
        errors.InternalError,
        errors.ServiceUnavailable,
    ]
    if body:
        derived += [errors.MalformedJson, errors.UnsupportedMediaType, MissingFields, ValidationFailed]
    elif others:
        derived.append(ValidationFailed)
    if not is_public:
        derived.append(errors.Unauthorized)
    return tuple(derived)


def _parse(request: Request, takes: Parts) -> dict[str, BaseModel]:
    """Return the declared parts by name, or refuse with the faults of all of them."""
    parsed: dict[str, BaseModel] = {}
    faults: list[Any] = []
    for part, read, schema in takes:
        try:
            sent = read(request, schema)
            parsed[part] = schema.model_validate(sent) if sent else _of_nothing(schema)
        except ValidationError as error:
            faults += [{"part": part, **fault} for fault in error.errors(include_url=False)]
    if faults:
        raise _refusal(faults)
    return parsed


@cache
def _of_nothing(schema: Schema) -> BaseModel:
    """Return what it means that a part was not sent at all.

    Raises:
        ValidationError: It may not be left out.
    """
    return schema.model_validate({})


def _read_body(request: Request, _schema: Schema) -> dict[str, Any]:
    body = request.context.body
    if body is None:
        body = _read(request, request.context.max_body)
    if not body:
        return {}
    sent = request.content_type or ""
    if sent != falcon.MEDIA_JSON and falcon.mediatypes.parse_header(sent)[0].lower() != falcon.MEDIA_JSON:
        raise errors.UnsupportedMediaType
    try:
        document = exactjson.loads(body)
    except ValueError as error:
        raise errors.MalformedJson(f"The body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValidationFailed("The body must be a JSON object", [FieldError("body", "must be a JSON object")])
    return document


def _read_query(request: Request, _schema: Schema) -> dict[str, Any]:
    return dict(request.params)


def _read_headers(request: Request, schema: Schema) -> dict[str, Any]:
    # Others are none of our business: every request has some that no schema names.
    return {name: value for name in _header_names(schema) if (value := request.get_header(name)) is not None}


@cache
def _header_names(schema: Schema) -> list[str]:
    return [field.alias or name for name, field in schema.model_fields.items()]


_READERS = {"body": _read_body, "query": _read_query, "headers": _read_headers}


def _read(request: Request, limit: int) -> bytes:
    """Read the body, which is within its limit when it was announced by Content-Length, and may end up beyond else."""
    coding = request.env.get("HTTP_CONTENT_ENCODING")
    if coding and {name.strip().lower() for name in coding.split(",")} != {"identity"}:
        raise errors.UnsupportedContentEncoding
    announced = request.content_length
    if announced is None and not request.env.get("wsgi.input_terminated"):
        return b""
    body = b"".join(_chunks(request.env["wsgi.input"], limit + 1 if announced is None else announced))
    if len(body) > limit:
        raise errors.PayloadTooLarge(f"The body must not be longer than {limit} bytes")
    if announced is not None and len(body) < announced:
        raise errors.MalformedJson("The body ended before its Content-Length")
    # Nothing is left to be dropped, see `BodyLimit`: another look would cost as much as reading did.
    request.context.is_read = announced is not None
    return body


def _chunks(stream: Any, wanted: int) -> Iterator[bytes]:
    while wanted > 0:
        chunk: bytes = stream.read(wanted)
        if not chunk:
            return
        wanted -= len(chunk)
        yield chunk


def _refusal(found: list[Any]) -> MissingFields | ValidationFailed:
    """Translate pydantic's findings into the contract's words."""
    missing: list[str] = []
    faults: list[FieldError] = []
    for fault in found[:MAX_FAULTS]:
        field = _path(fault["loc"])
        if _is_missing(fault):
            missing.append(field)
            faults.append(FieldError(field, "is required"))
        else:
            faults.append(FieldError(field, _wording(fault)))
    if len(found) > MAX_FAULTS:
        faults.append(FieldError("body", f"has {len(found) - MAX_FAULTS} more faults"))
    if missing:
        return MissingFields(f"{_enumeration(missing)} {'is' if len(missing) == 1 else 'are'} required", faults)
    sentence = "; ".join(f"{fault.field} {fault.error}" for fault in faults[:SPELLED_OUT])
    if len(faults) > SPELLED_OUT:
        sentence += f"; and {len(faults) - SPELLED_OUT} more"
    return ValidationFailed(sentence, faults)


def _is_missing(fault: Any) -> bool:
    """Tell whether a required field of the body is absent, null or an empty string.

    Only required fields are faulted for that; in a query or a header an empty value was given, and is wrong.
    """
    if fault["part"] != "body" or fault["type"] == "extra_forbidden":
        return False
    value = fault["input"]
    return fault["type"] == "missing" or value is None or (isinstance(value, str) and not value.strip())


def _path(location: tuple[str | int, ...]) -> str:
    """Spell a location as a client would: ``items[0].price``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{_name(step)}" for step in location).removeprefix(".")


def _name(name: str) -> str:
    """Return a field's name fit to be read; that of an unknown field can be long, empty, or not to be shown at all."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in name[:MAX_NAME])
    return shown or '""'


def _enumeration(names: list[str]) -> str:
    """Return ``a``, ``a and b``, or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# pydantic's error types in the contract's words; a fault of our own validators brings its own.
_WORDINGS = {
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_pattern_mismatch": "must not contain the character NUL",  # the one pattern of ours, `schemas.NO_NUL`
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be an array",
    "too_short": "must have at least one item",
    "too_long": "must have at most {max_length} items",
    "model_type": "must be an object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _wording(fault: Any) -> str:
    wording = _WORDINGS.get(fault["type"])
    return wording.format(**fault.get("ctx", {})) if wording else fault["msg"]
