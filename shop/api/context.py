"""A request as the service sees it: Falcon's, with a typed context, and the observer that is told about each one."""

from typing import ClassVar, Protocol

import falcon

from shop.api.responses import Response
from shop.security.tokens import Actor


class Context:
    """What middleware and responders note about a request while it is served.

    Attributes:
        request_id: The id in logs and errors; empty before `RequestId` has run.
        started: When the observer saw the request, by `time.perf_counter`; None if it did not see it.
        actor: Who sends the request; unset unless `Authentication` has verified a token.
        problem: The code of the error response; None if there is none.
        max_body: The longest body that is read, in bytes.
        body: The body, if it was read ahead of its parsing.
        is_read: Whether nothing is left of the body.
    """

    __slots__ = ("actor", "body", "is_read", "max_body", "problem", "request_id", "started")

    actor: Actor

    def __init__(self) -> None:
        self.request_id = ""
        self.started: float | None = None
        self.problem: str | None = None
        self.max_body = 0
        self.body: bytes | None = None
        self.is_read = False


class Request(falcon.Request):
    """Falcon's request with our context."""

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
