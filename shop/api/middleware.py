"""Middleware around every request: its id, checks before routing, and authentication."""

import re
from collections.abc import Callable
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

import falcon

from shop.api.context import Request
from shop.api.operations import Operation
from shop.api.responses import Response
from shop.errors import BadRequest, InvalidToken, PayloadTooLarge, ServiceUnavailable, Unauthorized
from shop.ids import new_id
from shop.security.tokens import Tokens

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# RFC 6750, section 2.1; the scheme's name is case-insensitive (RFC 9110, section 11.1).
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_SCHEME = "Bearer "
# The time at which the front forwarded the request: seconds since 1970, as nginx writes ``t=${msec}``.
_REQUEST_START = re.compile(r"t=([0-9]{1,12}(?:\.[0-9]{1,9})?)")
# A name or an address, with or without a port (RFC 9110, section 7.2). RFC 3986 allows a comma in a name, but servers
# join repeated headers with commas, so a comma means two hosts.
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
# Longer than any name with a port; it bounds the time to match and the size of the cache.
_MAX_HOST = 300
# Only these versions may omit Host. The second spelling is granian's.
_HTTP_1_0 = ("HTTP/1.0", "HTTP/1")
# The rest of a body is read up to this many times the maximum length of a body.
_DISCARD_FACTOR = 4
_CHUNK = 65_536  # bytes


class RequestId:
    """Gives each request an id: the client's ``X-Request-ID`` if it is well formed, else a new one."""

    def process_request(self, request: Request, response: Response) -> None:
        """Store the id for logs and errors, and send it back."""
        sent = request.env.get("HTTP_X_REQUEST_ID")
        request_id = sent if sent and _REQUEST_ID.fullmatch(sent) else new_id()
        request.context.request_id = request_id
        response.preset("x-request-id", request_id)


class RequestChecks:
    """Refuses invalid requests before routing, and leaves the connection in a clean state after the response.

    The checks are one middleware because each further one costs every request a call.

    Args:
        max_body: The maximum length of a body, in bytes.
        queue_timeout: How long a request may wait between the front and the service, in seconds.
        clock: Returns the current time, with its time zone.
        is_draining: Returns whether the service is about to stop.
    """

    def __init__(
        self, max_body: int, queue_timeout: int, clock: Callable[[], datetime], is_draining: Callable[[], bool]
    ) -> None:
        self._max_body = max_body
        self._queue_timeout = queue_timeout
        self._clock = clock
        self._is_draining = is_draining

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        """Check how long the request was queued, then its host, its path and the length of its body.

        Raises:
            ServiceUnavailable: The request was queued for too long.
            BadRequest: ``Host`` is missing, repeated or malformed, or Transfer-Encoding is not supported.
            falcon.HTTPRouteNotFound: The path is spelled in an unusual way.
            PayloadTooLarge: Content-Length is over the maximum.
        """
        environ = request.env
        request.context.max_body = self._max_body
        if "HTTP_X_REQUEST_START" in environ:
            self._check_queue_time(environ["HTTP_X_REQUEST_START"], request.path)
        host = environ.get("HTTP_HOST", "")
        if not _is_host(host[:_MAX_HOST]) and (host or environ["SERVER_PROTOCOL"] not in _HTTP_1_0):
            # RFC 9112, section 3.2.
            raise BadRequest("The request must have exactly one valid Host header")
        if _is_ambiguous_path(request.path, environ):
            raise falcon.HTTPRouteNotFound
        if _has_body(environ):
            self._check_body(request)

    def process_response(self, request: Request, response: Response, _resource: object, _succeeded: bool) -> None:
        """Close the connection while the service drains, so that clients connect elsewhere; discard an unread body."""
        if self._is_draining():
            response.preset("connection", "close")
        if _has_body(request.env):
            self._discard_body(request)

    def _check_queue_time(self, sent: str, path: str) -> None:
        start = _REQUEST_START.fullmatch(sent)
        if start is None:
            return
        waited = self._clock().timestamp() - float(start[1])
        # The client has probably timed out, and a quick refusal shortens the queue. Liveness probes are always
        # answered, because a restart does not make an overloaded service faster.
        if waited > self._queue_timeout and path != "/livez":
            raise ServiceUnavailable("The service is overloaded")

    def _check_body(self, request: Request) -> None:
        coding = request.env.get("HTTP_TRANSFER_ENCODING")
        if coding is not None and coding.lower() != "chunked":
            # RFC 9112, section 6.1: the server would pass the body on encoded.
            raise BadRequest("Transfer-Encoding must be chunked")
        if (request.content_length or 0) > self._max_body:
            raise PayloadTooLarge(f"The body must not be longer than {self._max_body} bytes")

    def _discard_body(self, request: Request) -> None:
        """Read the rest of the body, where the server marks its end, up to a limit.

        A server closes a connection with unread data, often before the client has received the response.
        """
        environ = request.env
        # With `Expect: 100-continue` (RFC 9110, section 10.1.1) no body was sent.
        if request.context.is_body_read or "HTTP_EXPECT" in environ or not environ.get("wsgi.input_terminated"):
            return
        left = _DISCARD_FACTOR * self._max_body
        while left > 0 and (chunk := environ["wsgi.input"].read(min(left, _CHUNK))):
            left -= len(chunk)


class Authentication:
    """Requires a valid bearer token, unless the operation is declared public.

    Args:
        tokens: Verifies bearer tokens.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def process_resource(
        self, request: Request, _response: falcon.Response, resource: object, _params: dict[str, Any]
    ) -> None:
        """Store the actor in the request's context.

        Raises:
            Unauthorized: There is no bearer token.
            InvalidToken: The token is malformed, expired or has a wrong signature.
        """
        method = request.method
        # A method that the client made up is refused later; it must not fill the cache.
        if method not in falcon.COMBINED_METHODS or not _needs_token(resource, method):
            return
        header: str = request.env.get("HTTP_AUTHORIZATION", "")
        # Most tokens were verified before. A token in that cache is well formed.
        actor = self._tokens.recall(header[len(_SCHEME) :]) if header.startswith(_SCHEME) else None
        if actor is None:
            bearer = _BEARER.fullmatch(header)
            if bearer is None:
                raise InvalidToken if header[: len(_SCHEME)].lower() == _SCHEME.lower() else Unauthorized
            actor = self._tokens.verify(bearer[1])
        request.context.actor = actor


@lru_cache(maxsize=64)
def _is_host(text: str) -> bool:
    return len(text) < _MAX_HOST and _HOST.fullmatch(text) is not None


def _is_ambiguous_path(path: str, environ: dict[str, Any]) -> bool:
    """Return whether a proxy may take the path for another one than this service does.

    Each path has one spelling: Falcon would route ``//users`` like ``/users`` and take an empty segment for an id.
    Other examples are ``/users/``, ``/users/../orders`` and ``/users%2Flogin``.
    """
    # The first three conditions are quick, and few paths meet one.
    is_unusual = "//" in path or "/." in path or path.endswith("/")
    if is_unusual and path != "/" and not {"", ".", ".."}.isdisjoint(path.split("/")[1:]):
        return True
    # WSGI servers decode the path. Some keep the original too; granian does not, so the front checks it as well.
    original = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    return original is not None and "%2f" in original.partition("?")[0].lower()


@cache
def _needs_token(resource: object, method: str) -> bool:
    responder = getattr(resource, f"on_{method.lower()}", None)
    # OPTIONS shows only the methods; a method that the resource does not have gets a 405.
    if method == "OPTIONS" or responder is None:
        return False
    declared: Operation | None = getattr(responder, "operation", None)
    return declared is None or not declared.is_public


def _has_body(environ: dict[str, Any]) -> bool:
    """Return whether the headers announce a body (RFC 9112, section 6)."""
    return bool(environ.get("CONTENT_LENGTH")) or "HTTP_TRANSFER_ENCODING" in environ
