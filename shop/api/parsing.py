"""Read the body, query and headers of a request, validate them, and report all faults at once."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import falcon
from pydantic import BaseModel, ValidationError

from shop import errors, exactjson
from shop.api import schemas
from shop.api.context import Request
from shop.errors import FieldError, MissingFields, ValidationFailed

# A hostile body can have a fault every few bytes; an honest one has fewer than this.
MAX_FAULTS = 500
MAX_NAME = 100
# The sentence of an error names this many faults; `errors` has all of them.
MAX_NAMED_FAULTS = 3

_field_names = cache(schemas.field_names)

Schema = type[BaseModel]


def parse(request: Request, declared: Mapping[str, Schema]) -> dict[str, BaseModel]:
    """Return the validated parts of a request.

    Args:
        request: The request.
        declared: The models of ``body``, ``query`` and ``headers``, where they are declared.

    Raises:
        ShopError: The body cannot be read.
        MissingFields: Required fields of the body are missing; other faults are listed as well.
        ValidationFailed: Fields have other faults.
    """
    parsed: dict[str, BaseModel] = {}
    faults: list[Any] = []
    for part, schema in declared.items():
        try:
            values = _READERS[part](request, schema)
            parsed[part] = schema.model_validate(values) if values else _empty(schema)
        except ValidationError as error:
            faults += [{"part": part, **fault} for fault in error.errors(include_url=False)]
    if faults:
        raise _validation_error(faults)
    return parsed


def read_body(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        UnsupportedContentEncoding: It is compressed.
        PayloadTooLarge: It has no Content-Length and is too long; `RequestChecks` has refused one that has.
        MalformedJson: It is shorter than its Content-Length.
    """
    limit = request.context.max_body
    coding = request.env.get("HTTP_CONTENT_ENCODING")
    if coding and {name.strip().lower() for name in coding.split(",")} != {"identity"}:
        raise errors.UnsupportedContentEncoding
    length = request.content_length
    if length is None and not request.env.get("wsgi.input_terminated"):
        return b""
    body = b"".join(_chunks(request.env["wsgi.input"], limit + 1 if length is None else length))
    if len(body) > limit:
        raise errors.PayloadTooLarge(f"The body must not be longer than {limit} bytes")
    if length is not None and len(body) < length:
        raise errors.MalformedJson("The body ended before its Content-Length")
    # `RequestChecks` need not look for a rest, which would take as long as reading the body.
    request.context.is_body_read = length is not None
    return body


def _chunks(stream: Any, wanted: int) -> Iterator[bytes]:
    while wanted > 0 and (chunk := stream.read(wanted)):
        wanted -= len(chunk)
        yield chunk


@cache
def _empty(schema: Schema) -> BaseModel:
    """Return the model of a part that the client did not send, or raise ValidationError."""
    return schema.model_validate({})


def _body(request: Request, _schema: Schema) -> dict[str, Any]:
    body = request.context.body
    if body is None:
        body = read_body(request)
    if not body:
        return {}
    media_type = request.content_type or ""
    # The comparison without parsing is enough for nearly all requests.
    if media_type != falcon.MEDIA_JSON and falcon.mediatypes.parse_header(media_type)[0].lower() != falcon.MEDIA_JSON:
        raise errors.UnsupportedMediaType
    try:
        document = exactjson.loads(body)
    except ValueError as error:
        raise errors.MalformedJson(f"The body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValidationFailed("The body must be a JSON object", [FieldError("body", "must be a JSON object")])
    return document


def _query(request: Request, _schema: Schema) -> dict[str, Any]:
    return dict(request.params)


def _headers(request: Request, schema: Schema) -> dict[str, Any]:
    # Every request has headers that no schema names, so the others are ignored.
    return {name: value for name in _field_names(schema) if (value := request.get_header(name)) is not None}


_READERS = {"body": _body, "query": _query, "headers": _headers}


def _validation_error(found: list[Any]) -> MissingFields | ValidationFailed:
    """Return the error that reports pydantic's findings in the words of the contract."""
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
        names = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        return MissingFields(f"{names} {'is' if len(missing) == 1 else 'are'} required", faults)
    sentence = "; ".join(f"{fault.field} {fault.error}" for fault in faults[:MAX_NAMED_FAULTS])
    if len(faults) > MAX_NAMED_FAULTS:
        sentence += f"; and {len(faults) - MAX_NAMED_FAULTS} more"
    return ValidationFailed(sentence, faults)


def _is_missing(fault: Any) -> bool:
    """Return whether a required field of the body is absent, null or an empty string.

    An empty value in the query or in a header is not missing but invalid.
    """
    if fault["part"] != "body" or fault["type"] == "extra_forbidden":
        return False
    value = fault["input"]
    return fault["type"] == "missing" or value is None or (isinstance(value, str) and not value.strip())


def _path(location: tuple[str | int, ...]) -> str:
    """Return a location as a client would write it: ``items[0].price``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{_name(step)}" for step in location).removeprefix(".")


def _name(name: str) -> str:
    """Return a readable field name: an unknown field's name may be long, empty or unprintable."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in name[:MAX_NAME])
    return shown or '""'


# pydantic's error types in the words of the contract. Errors of our own validators have their own messages.
_WORDINGS = {
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_pattern_mismatch": "must not contain the character NUL",  # Only `schemas.NO_NUL` is checked as a pattern.
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
