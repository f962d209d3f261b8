"""What happens around every request: its id, what is refused before routing, and who sends it."""

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
_USUAL = "Bearer "
# When the front sent the request on: seconds since 1970, as nginx writes ``t=${msec}``.
_REQUEST_START = re.compile(r"t=([0-9]{1,12}(?:\.[0-9]{1,9})?)")
# A name or an address, with or without a port (RFC 9110, section 7.2). RFC 3986 allows a comma in a name; servers use
# it to join repeated headers, so a comma means two hosts.
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
# Longer than any name with a port; what is compared and remembered stays small.
_LONGEST_HOST = 300
# Only these versions may leave out Host. The second spelling is granian's.
_HTTP_1_0 = ("HTTP/1.0", "HTTP/1")
_NO_SEGMENTS = {"", ".", ".."}
# A restart does not make an overloaded service faster, so liveness probes are always answered.
_ALWAYS_ANSWERED = "/livez"


class RequestId:
    """Gives each request an id: the client's ``X-Request-ID`` when it is well formed, else a new one."""

    def process_request(self, request: Request, response: Response) -> None:
        """Note the id for logs and errors, and echo it."""
        sent = request.env.get("HTTP_X_REQUEST_ID")
        request_id = sent if sent and _REQUEST_ID.fullmatch(sent) else new_id()
        request.context.request_id = request_id
        response.preset("x-request-id", request_id)


class CloseWhileDraining:
    """Closes each connection with its next answer while the service drains, so that clients connect elsewhere.

    Args:
        is_draining: Tells whether the service is about to stop.
    """

    def __init__(self, is_draining: Callable[[], bool]) -> None:
        self._is_draining = is_draining

    def process_response(self, _request: Request, response: Response, _resource: object, _succeeded: bool) -> None:
        """Add ``Connection: close``; the server below acts on it."""
        if self._is_draining():
            response.preset("connection", "close")


class WaitLimit:
    """Refuses requests that have waited too long between the front and here.

    The client has probably timed out, and each quick refusal shortens the queue.

    Args:
        limit: The longest wait, in seconds.
        clock: Returns the current time, aware.
    """

    def __init__(self, limit: int, clock: Callable[[], datetime]) -> None:
        self._limit = limit
        self._clock = clock

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        """Compare the front's ``X-Request-Start`` with the clock; ignore a value that is malformed or in the future.

        Raises:
            ServiceUnavailable: The request has waited longer than the limit.
        """
        sent = request.env.get("HTTP_X_REQUEST_START")
        if sent is None or (start := _REQUEST_START.fullmatch(sent)) is None:
            return
        waited = self._clock().timestamp() - float(start[1])
        if waited > self._limit and request.path != _ALWAYS_ANSWERED:
            raise ServiceUnavailable("The service is overloaded")


class BodyLimit:
    """Refuses bodies that are announced to be too long, whatever the path, before anything of them is read.

    A body that nobody has read by the time of the answer is read and dropped, up to a multiple of the limit: a server
    closes a connection on which something unread is left, often before the client has seen the answer.

    Args:
        max_body: Longest body that is read, in bytes.
    """

    DROPPED_AT_MOST = 4  # times the limit
    PIECE = 65_536  # bytes

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        """Note the limit, for bodies that come without an announcement.

        Raises:
            BadRequest: The body is encoded in a way that the server would not undo (RFC 9112, section 6.1).
            PayloadTooLarge: Content-Length is beyond the limit.
        """
        request.context.max_body = self._max_body
        if not _has_body(request.env):
            return
        coding = request.env.get("HTTP_TRANSFER_ENCODING")
        if coding is not None and coding.lower() != "chunked":
            raise BadRequest("Transfer-Encoding must be chunked")
        if (request.content_length or 0) > self._max_body:
            raise PayloadTooLarge(f"The body must not be longer than {self._max_body} bytes")

    def process_response(
        self, request: Request, _response: falcon.Response, _resource: object, _succeeded: bool
    ) -> None:
        """Drop the rest of the body, where the server marks its end.

        With ``Expect: 100-continue`` (RFC 9110, section 10.1.1) the client has not sent it yet.
        """
        environ = request.env
        if not _has_body(environ) or request.context.is_read or "HTTP_EXPECT" in environ:
            return
        if not environ.get("wsgi.input_terminated"):
            return
        left = self.DROPPED_AT_MOST * self._max_body
        while left > 0 and (dropped := environ["wsgi.input"].read(min(left, self.PIECE))):
            left -= len(dropped)


class RequestTarget:
    """Refuses requests that could mean another resource to a proxy than to this service.

    There is one host (RFC 9112, section 3.2), and each path has one spelling: Falcon would take ``//users`` for
    ``/users``, and an empty segment for an id.
    """

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        """Check the host and the path.

        Raises:
            BadRequest: ``Host`` is missing, repeated or malformed.
            falcon.HTTPRouteNotFound: A path like ``/users/``, ``//users``, ``/users/../orders`` or ``/users%2Flogin``.
        """
        environ = request.env
        host = environ.get("HTTP_HOST", "")
        if not _is_host(host[:_LONGEST_HOST]) and (host or environ["SERVER_PROTOCOL"] not in _HTTP_1_0):
            raise BadRequest("The request must have exactly one valid Host header")
        path = request.path
        # Nearly no path has what such a segment begins or ends with.
        if ("//" in path or "/." in path or path.endswith("/")) and _has_odd_segments(path):
            raise falcon.HTTPRouteNotFound
        # WSGI servers decode the path. Some keep the original too; granian does not, so the front looks at it as well.
        raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
        if raw and "%2f" in raw.partition("?")[0].lower():
            raise falcon.HTTPRouteNotFound


class Authentication:
    """Lets a request through to its responder only with a valid token, unless its operation is declared to be public.

    Args:
        tokens: Verifies what comes in ``Authorization``.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def process_resource(
        self, request: Request, _response: falcon.Response, resource: object, _params: dict[str, Any]
    ) -> None:
        """Note the actor in the request's context.

        Raises:
            Unauthorized: No bearer token came.
            InvalidToken: What came is none, or does not verify.
        """
        if not _needs_token(resource, request.method):
            return
        sent: str = request.env.get("HTTP_AUTHORIZATION", "")
        # Nearly all are spelled like this and were here before: what is remembered was well formed.
        actor = self._tokens.recall(sent[len(_USUAL) :]) if sent.startswith(_USUAL) else None
        if actor is None:
            bearer = _BEARER.fullmatch(sent)
            if bearer is None:
                raise InvalidToken if sent[: len(_USUAL)].lower() == _USUAL.lower() else Unauthorized
            actor = self._tokens.verify(bearer[1])
        request.context.actor = actor


def _needs_token(resource: object, method: str) -> bool:
    # A method that clients have made up is refused as such, and not remembered.
    return method in falcon.COMBINED_METHODS and _is_guarded(resource, method)


@lru_cache(maxsize=64)
def _is_host(text: str) -> bool:
    # Remembered, since nearly all requests name the same few.
    return len(text) < _LONGEST_HOST and _HOST.fullmatch(text) is not None


def _has_odd_segments(path: str) -> bool:
    segments = path.split("/")[1:]
    return segments != [""] and not _NO_SEGMENTS.isdisjoint(segments)


@cache
def _is_guarded(resource: object, method: str) -> bool:
    responder = getattr(resource, f"on_{method.lower()}", None)
    # OPTIONS tells only which methods there are; a method that is not there is refused as such (405).
    if method == "OPTIONS" or responder is None:
        return False
    declared: Operation | None = getattr(responder, "operation", None)
    return declared is None or not declared.is_public


def _has_body(environ: dict[str, Any]) -> bool:
    """Tell whether a body is announced (RFC 9112, section 6)."""
    return bool(environ.get("CONTENT_LENGTH")) or "HTTP_TRANSFER_ENCODING" in environ
