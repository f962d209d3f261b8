"""Request bodies: read within limits, parsed strictly, validated against a schema, all faults reported at once."""

from collections.abc import Iterator
from typing import Any, TypeVar

import falcon
from pydantic import BaseModel, ValidationError

from shop import exactjson
from shop.errors import (
    FieldError,
    MalformedJson,
    MissingFields,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)

# A hostile body can have a fault every few bytes; an honest one has fewer than this.
MAX_FAULTS = 500
MAX_NAME = 100
SPELLED_OUT = 3

Schema = TypeVar("Schema", bound=BaseModel)


def parse(request: falcon.Request, schema: type[Schema], *, limit: int) -> Schema:
    """Return the request's JSON object as a `schema`.

    Args:
        request: The request, its body not read yet.
        schema: The pydantic model of the body.
        limit: Longest body that is read, in bytes.

    Raises:
        PayloadTooLarge: The body is longer than `limit`.
        UnsupportedMediaType: There is a body that is not declared to be JSON.
        MalformedJson: The body is not JSON text, or ends early.
        MissingFields: Required fields are absent, null or empty; other faults are named with them.
        ValidationFailed: Fields are unknown, of the wrong type or beyond their limits.
    """
    body = _read(request, limit)
    document: object = {}
    if body:
        if falcon.mediatypes.parse_header(request.content_type or "")[0].lower() != falcon.MEDIA_JSON:
            raise UnsupportedMediaType
        try:
            document = exactjson.loads(body)
        except ValueError as error:
            raise MalformedJson(f"The body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValidationFailed("The body must be a JSON object", [FieldError("body", "must be a JSON object")])
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise _refusal(error, schema) from error


def _read(request: falcon.Request, limit: int) -> bytes:
    """Read the body, announced by Content-Length or chunked; never more than one byte over the limit."""
    announced = request.content_length
    if announced is None:
        if not request.env.get("wsgi.input_terminated"):
            return b""
    elif announced > limit:
        raise PayloadTooLarge(f"The body must not be longer than {limit} bytes")
    wanted = limit + 1 if announced is None else announced
    body = b"".join(_chunks(request.env["wsgi.input"], wanted))
    if len(body) > limit:
        raise PayloadTooLarge(f"The body must not be longer than {limit} bytes")
    if announced is not None and len(body) < announced:
        raise MalformedJson("The body ended before its Content-Length")
    return body


def _chunks(stream: Any, wanted: int) -> Iterator[bytes]:
    while wanted > 0:
        chunk: bytes = stream.read(wanted)
        if not chunk:
            return
        wanted -= len(chunk)
        yield chunk


def _refusal(error: ValidationError, schema: type[BaseModel]) -> MissingFields | ValidationFailed:
    """Translate pydantic's findings into the contract's words."""
    missing: list[str] = []
    faults: list[FieldError] = []
    for fault in error.errors(include_url=False)[:MAX_FAULTS]:
        field = _path(fault["loc"])
        if _is_missing(fault):
            missing.append(field)
            faults.append(FieldError(field, "is required"))
        else:
            faults.append(FieldError(field, _wording(fault)))
    if error.error_count() > MAX_FAULTS:
        faults.append(FieldError("body", f"has {error.error_count() - MAX_FAULTS} more faults"))
    if missing:
        return MissingFields(f"{_enumeration(missing)} {'is' if len(missing) == 1 else 'are'} required", faults)
    sentence = "; ".join(f"{fault.field} {fault.error}" for fault in faults[:SPELLED_OUT])
    if len(faults) > SPELLED_OUT:
        sentence += f"; and {len(faults) - SPELLED_OUT} more"
    return ValidationFailed(sentence, faults)


def _is_missing(fault: Any) -> bool:
    """Tell whether a required field is absent, null or an empty string; optional ones are never faulted for that."""
    value = fault["input"]
    return fault["type"] == "missing" or value is None or (isinstance(value, str) and not value.strip())


def _path(location: tuple[str | int, ...]) -> str:
    """Spell a location as a client would: ``items[0].price``. Names of unknown fields are cut, they can be long."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step[:MAX_NAME]}"
    return path.removeprefix(".") or "body"


def _enumeration(names: list[str]) -> str:
    """Return ``a``, ``a and b``, or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# pydantic's error types in the contract's words; a fault of our own validators brings its own.
_WORDINGS = {
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
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
