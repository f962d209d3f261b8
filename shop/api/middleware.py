"""What happens around every request: its id, and who sends it."""

import re
from functools import cache
from typing import Any

import falcon

from shop.api.operations import Operation
from shop.api.responses import Response
from shop.api.slow_bodies import BREAK_OFF
from shop.errors import BadRequest, InvalidToken, PayloadTooLarge, ServiceUnavailable, Unauthorized
from shop.ids import new_id
from shop.security.tokens import Tokens

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# RFC 6750, section 2.1; the scheme's name is case-insensitive (RFC 9110, section 11.1).
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_USUAL = "Bearer "
_NO_SEGMENTS = {"", ".", ".."}
# What a server puts into the environment of a request that may have waited for a thread for too long. `shop.gateway`
# does; other servers bound their queues themselves, or need a front that does.
WAITED = "shop.waited"
# Whoever asks whether the process is alive must not be told about its load: a restart would not mend that.
_ALWAYS_ANSWERED = "/livez"


class RequestId:
    """Gives each request an id: the client's ``X-Request-ID`` when it is well formed, else a new one."""

    def process_request(self, request: falcon.Request, response: Response) -> None:
        """Note the id for logs and errors, and echo it."""
        sent = request.env.get("HTTP_X_REQUEST_ID")
        request_id = sent if sent and _REQUEST_ID.fullmatch(sent) else new_id()
        request.context.request_id = request_id
        response.preset("x-request-id", request_id)


class WaitLimit:
    """Refuses what has waited for a thread for too long.

    Who sent it may have given up; and a queue that is answered at once leaves room for those who have not.
    """

    def process_request(self, request: falcon.Request, _response: falcon.Response) -> None:
        """Refuse a request that the server has marked.

        Raises:
            ServiceUnavailable: It has waited for longer than the setting says.
        """
        if WAITED in request.env and request.path != _ALWAYS_ANSWERED:
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

    def process_request(self, request: falcon.Request, _response: falcon.Response) -> None:
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
        self, request: falcon.Request, _response: falcon.Response, _resource: object, _succeeded: bool
    ) -> None:
        """Drop what is left of the body, where nothing makes that wait for ever: the server marks its end, and watches.

        Who asks first whether to send it (RFC 9110, section 10.1.1) is answered, and has not sent it.
        """
        environ = request.env
        if not _has_body(environ) or request.context.get("is_read") or "HTTP_EXPECT" in environ:
            return
        # A method that Falcon itself refuses comes here past all other middleware.
        if not environ.get("wsgi.input_terminated") or (BREAK_OFF in environ and not request.context.get("is_watched")):
            return
        left = self.DROPPED_AT_MOST * self._max_body
        while left > 0 and (dropped := environ["wsgi.input"].read(min(left, self.PIECE))):
            left -= len(dropped)


class OnePathEach:
    """Keeps one spelling for each path: Falcon takes ``//users`` for ``/users``, and an empty segment for an id."""

    def process_request(self, request: falcon.Request, _response: falcon.Response) -> None:
        """Refuse paths with segments that are empty, or dots.

        Raises:
            falcon.HTTPRouteNotFound: There are such, as in ``/users/``, ``//users`` and ``/users/../orders``.
        """
        path = request.path
        # Nearly all paths have none of what such a segment begins or ends with.
        if not ("//" in path or "/." in path or path.endswith("/")):
            return
        segments = path.split("/")[1:]
        if segments != [""] and not _NO_SEGMENTS.isdisjoint(segments):
            raise falcon.HTTPRouteNotFound


class Authentication:
    """Lets a request through to its responder only with a valid token, unless its operation is declared to be public.

    Args:
        tokens: Verifies what comes in ``Authorization``.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def process_resource(
        self, request: falcon.Request, _response: falcon.Response, resource: object, _params: dict[str, Any]
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
