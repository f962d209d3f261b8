"""A time limit for the bodies of requests, on servers that can break a request off while its body is awaited."""

from functools import partial

import falcon

from shop.api import problems
from shop.bodies import Bodies
from shop.errors import RequestTimeout

# Where a server puts, if a body is announced, a function that answers the request from any thread, and closes the
# connection: it takes the status, the headers and the body. `shop.gateway` has it there. Other servers need a front
# that waits for bodies.
BREAK_OFF = "shop.break_off"


class BodyTimeLimit:
    """Answers requests whose bodies do not come in time; see `shop.bodies`.

    Args:
        limit: How long a body may take, in seconds.
        places: How many threads may wait for bodies at a time for longer than a moment.
    """

    def __init__(self, *, limit: float, places: int) -> None:
        self._bodies = Bodies(limit=limit, places=places)

    def process_request(self, request: falcon.Request, _response: falcon.Response) -> None:
        """Put the body under watch, whoever reads it."""
        environ = request.env
        if BREAK_OFF in environ:
            request.context.is_watched = True
            environ["wsgi.input"] = self._bodies.watched(environ["wsgi.input"], partial(_answer, request))


def _answer(request: falcon.Request) -> None:
    error = RequestTimeout()
    headers = [
        ("Content-Type", problems.MEDIA_TYPE),
        ("X-Request-ID", request.context.request_id),
        # RFC 9110, section 15.5.9.
        ("Connection", "close"),
    ]
    body = problems.document(error.status, error.code, str(error), request.context.request_id)
    request.env[BREAK_OFF](error.status, headers, body)
