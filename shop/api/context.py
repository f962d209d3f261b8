"""The request with a typed context, and the interface of the observer that logs and counts requests."""

from typing import ClassVar, Protocol

import falcon

from shop.api.responses import Response
from shop.security.tokens import Actor


class Context:
    """What middleware and responders store about a request.

    Attributes:
        request_id: The id in logs and errors; empty before `RequestId` has run.
        started: When the observer saw the request, by `time.perf_counter`; None if it did not see it.
        actor: The user whose token `Authentication` has verified; unset for public operations.
        problem: The code of the error response; None if the response is no error.
        max_body: The maximum length of the body, in bytes.
        body: The body, if it was read before it is parsed.
        is_body_read: Whether the body was read to its end.
    """

    __slots__ = ("actor", "body", "is_body_read", "max_body", "problem", "request_id", "started")

    actor: Actor

    def __init__(self) -> None:
        self.request_id = ""
        self.started: float | None = None
        self.problem: str | None = None
        self.max_body = 0
        self.body: bytes | None = None
        self.is_body_read = False


class Request(falcon.Request):
    """Falcon's request with a typed context."""

    __slots__ = ()

    context_type: ClassVar[type] = Context
    context: Context  # type: ignore[assignment] # Falcon declares its own type, which takes any attribute.


class Observer(Protocol):
    """Middleware that logs and counts requests, right after `RequestId`. `shop.serving.observer` implements it."""

    def process_request(self, request: Request, response: Response) -> None:
        """Start to measure a request."""

    def process_response(self, request: Request, response: Response, resource: object, succeeded: bool) -> None:
        """Log and count a request; its response is complete."""

    def count_hashing(self, change: int) -> None:
        """Change the number of logins and registrations in progress by 1 or -1."""
