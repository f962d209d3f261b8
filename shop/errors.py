"""The errors of the service, each with its HTTP status, code and sentence, independent of any web framework.

Every refusal is a `ShopError`; `shop.api.problems` turns it into a response.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    """What is wrong with one field.

    Attributes:
        field: The path of the field in the request, such as ``items[0].price``.
        error: The rest of the sentence that begins with the path, such as ``is required``.
    """

    field: str
    error: str


class ShopError(Exception):
    """An error whose text the client may read.

    Args:
        sentence: One sentence for a person; by default that of the class.
        errors: All invalid fields.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    sentence: ClassVar[str]
    headers: Mapping[str, str] = {}

    def __init__(self, sentence: str | None = None, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(sentence or self.sentence)
        self.errors = tuple(errors)


class BadRequest(ShopError):
    """The method or a header of the request is invalid HTTP."""

    status, code, sentence = 400, "BAD_REQUEST", "The request cannot be understood"


class MalformedJson(ShopError):
    """The body is not valid JSON, or is too deep or too large."""

    status, code, sentence = 400, "MALFORMED_JSON", "The body is not valid JSON"


class MissingFields(ShopError):
    """Required fields are absent, null or empty."""

    status, code, sentence = 400, "MISSING_FIELDS", "Required fields are missing"


class ValidationFailed(ShopError):
    """Fields have invalid values."""

    status, code, sentence = 400, "VALIDATION_ERROR", "The request is not valid"


class Unauthorized(ShopError):
    """The request has no bearer token. RFC 6750, section 3.1, then forbids an error code in the challenge."""

    status, code, sentence = 401, "UNAUTHORIZED", "A bearer token is required"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class InvalidToken(Unauthorized):
    """The bearer token is malformed, has expired or has a wrong signature (RFC 6750, section 3.1)."""

    sentence = "The bearer token is invalid or has expired"
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class InvalidCredentials(ShopError):
    """The e-mail address is unknown or the password is wrong; the response does not show which."""

    status, code, sentence = 401, "INVALID_CREDENTIALS", "Invalid credentials"
    # RFC 9110, section 15.5.2: every 401 carries a challenge.
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class Forbidden(ShopError):
    """The actor owns the order, but only staff may make this change."""

    status, code, sentence = 403, "FORBIDDEN", "Only staff may do this"


class NotFound(ShopError):
    """No resource has this path."""

    status, code, sentence = 404, "NOT_FOUND", "There is nothing at this path"


class UserNotFound(ShopError):
    """The user does not exist, or the actor may not see it."""

    status, code, sentence = 404, "USER_NOT_FOUND", "User not found"


class OrderNotFound(ShopError):
    """The order does not exist, or the actor may not see it."""

    status, code, sentence = 404, "ORDER_NOT_FOUND", "Order not found"


class MethodNotAllowed(ShopError):
    """The resource does not have this method."""

    status, code, sentence = 405, "METHOD_NOT_ALLOWED", "This path does not answer to this method"


class EmailExists(ShopError):
    """An account with this e-mail address exists, perhaps in another case."""

    status, code, sentence = 409, "EMAIL_EXISTS", "Email already registered"


class InvalidTransition(ShopError):
    """The order's status does not allow the change."""

    status, code, sentence = 409, "INVALID_TRANSITION", "The order's status does not allow this"


class PayloadTooLarge(ShopError):
    """The body is longer than `SHOP_MAX_BODY`."""

    status, code, sentence = 413, "PAYLOAD_TOO_LARGE", "The body is too large"


class UnsupportedMediaType(ShopError):
    """The Content-Type of the body is not JSON."""

    status, code, sentence = 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type must be application/json"


class UnsupportedContentEncoding(UnsupportedMediaType):
    """The body has a Content-Encoding, such as gzip."""

    sentence = "Content-Encoding must be absent or identity"
    # RFC 9110, section 12.5.3: the header of a 415 lists the accepted codings.
    headers: Mapping[str, str] = {"Accept-Encoding": "identity"}


class IdempotencyKeyReused(ShopError):
    """The user has sent another request with the same idempotency key."""

    status, code, sentence = 422, "IDEMPOTENCY_KEY_REUSED", "This Idempotency-Key was used for another request"


class TooManyAttempts(ShopError):
    """The rate limit of failed logins is reached for an e-mail address; `wait` says for how long."""

    status, code, sentence = 429, "TOO_MANY_ATTEMPTS", "Too many failed attempts; try again later"

    def __init__(self, wait: timedelta) -> None:
        super().__init__()
        # RFC 9110, section 10.2.3: whole seconds. They are rounded up, so that a retry after them is not too early.
        self.headers = {"Retry-After": str(max(1, math.ceil(wait.total_seconds())))}


class InternalError(ShopError):
    """A bug in the service. The log has the details; the response never has them."""

    status, code, sentence = 500, "INTERNAL_ERROR", "Something went wrong on our side"


class ServiceUnavailable(ShopError):
    """The database is unavailable, or a queue is full or too slow. The client may retry the same request."""

    status, code, sentence = 503, "SERVICE_UNAVAILABLE", "The service is temporarily unavailable"
    headers: Mapping[str, str] = {"Retry-After": "1"}
