"""What can go wrong, as facts: each error knows its status, its code and its sentence, and nothing of HTTP frameworks.

Everything the service refuses is a `ShopError`; `shop.api.problems` turns it into a response. This module
imports nothing of ours.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    """A fault of one field.

    Attributes:
        field: Path of the field in the request, e.g. ``items[0].price``.
        error: What is wrong with it, to be read after the field's name.
    """

    field: str
    error: str


class ShopError(Exception):
    """A refusal that the caller may read.

    Args:
        sentence: One sentence for a person; the class's own when left out.
        errors: The fields at fault, all of them.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    sentence: ClassVar[str]
    headers: Mapping[str, str] = {}

    def __init__(self, sentence: str | None = None, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(sentence or self.sentence)
        self.errors = tuple(errors)


class BadRequest(ShopError):
    """The request is not one that HTTP knows: its method, or one of its headers."""

    status, code, sentence = 400, "BAD_REQUEST", "The request cannot be understood"


class MalformedJson(ShopError):
    """The body is not JSON text that the service reads."""

    status, code, sentence = 400, "MALFORMED_JSON", "The body is not valid JSON"


class MissingFields(ShopError):
    """Required fields are absent, null or empty."""

    status, code, sentence = 400, "MISSING_FIELDS", "Required fields are missing"


class ValidationFailed(ShopError):
    """Fields are there but do not hold what they must."""

    status, code, sentence = 400, "VALIDATION_ERROR", "The request is not valid"


class Unauthorized(ShopError):
    """No bearer token came with the request (RFC 6750, section 3.1: then no error code either)."""

    status, code, sentence = 401, "UNAUTHORIZED", "A bearer token is required"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class InvalidToken(Unauthorized):
    """The bearer token is malformed, expired, or not signed with a key of ours (RFC 6750, section 3.1)."""

    sentence = "The bearer token is invalid or has expired"
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class InvalidCredentials(ShopError):
    """No account has this e-mail address, or the password is wrong: one answer for both."""

    status, code, sentence = 401, "INVALID_CREDENTIALS", "Invalid credentials"
    # RFC 9110, section 15.5.2: every 401 carries a challenge.
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class Forbidden(ShopError):
    """The order is the actor's own, but the change is for staff to make."""

    status, code, sentence = 403, "FORBIDDEN", "Only staff may do this"


class NotFound(ShopError):
    """No resource has this path."""

    status, code, sentence = 404, "NOT_FOUND", "There is nothing at this path"


class UserNotFound(ShopError):
    """There is no such user for the one who asks."""

    status, code, sentence = 404, "USER_NOT_FOUND", "User not found"


class OrderNotFound(ShopError):
    """There is no such order for the one who asks."""

    status, code, sentence = 404, "ORDER_NOT_FOUND", "Order not found"


class MethodNotAllowed(ShopError):
    """The resource is there, but not for this method."""

    status, code, sentence = 405, "METHOD_NOT_ALLOWED", "This path does not answer to this method"


class EmailExists(ShopError):
    """An account with this e-mail address exists, in whatever case it is spelled."""

    status, code, sentence = 409, "EMAIL_EXISTS", "Email already registered"


class InvalidTransition(ShopError):
    """The order's status does not allow the change."""

    status, code, sentence = 409, "INVALID_TRANSITION", "The order's status does not allow this"


class PayloadTooLarge(ShopError):
    """The body is longer than the service reads."""

    status, code, sentence = 413, "PAYLOAD_TOO_LARGE", "The body is too large"


class UnsupportedMediaType(ShopError):
    """The body is not declared to be JSON."""

    status, code, sentence = 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type must be application/json"


class UnsupportedContentEncoding(UnsupportedMediaType):
    """The body is compressed, or encoded in another way that the service does not undo."""

    sentence = "Content-Encoding must be absent or identity"
    # RFC 9110, section 12.5.3: with a 415 it names the codings that are accepted.
    headers: Mapping[str, str] = {"Accept-Encoding": "identity"}


class IdempotencyKeyReused(ShopError):
    """The idempotency key stands for another request already."""

    status, code, sentence = 422, "IDEMPOTENCY_KEY_REUSED", "This Idempotency-Key was used for another request"


class TooManyAttempts(ShopError):
    """Logging in failed too often for this account.

    Args:
        wait: How long until the next attempt is looked at.
    """

    status, code, sentence = 429, "TOO_MANY_ATTEMPTS", "Too many failed attempts; try again later"

    def __init__(self, wait: timedelta) -> None:
        super().__init__()
        # RFC 9110, section 10.2.3: whole seconds, rounded up so that waiting them is enough.
        self.headers = {"Retry-After": str(max(1, math.ceil(wait.total_seconds())))}


class InternalError(ShopError):
    """Something failed that the caller cannot mend; the log has the details, the response never."""

    status, code, sentence = 500, "INTERNAL_ERROR", "Something went wrong on our side"


class ServiceUnavailable(ShopError):
    """The database, or what hashes passwords, or all threads are busy right now; the same request may be sent again."""

    status, code, sentence = 503, "SERVICE_UNAVAILABLE", "The service is temporarily unavailable"
    headers: Mapping[str, str] = {"Retry-After": "1"}
