"""``/livez`` and ``/readyz``, for whatever decides about restarts and traffic."""

from collections.abc import Callable

import falcon

from shop.api import responses
from shop.api.context import Request
from shop.api.openapi import documents
from shop.api.operations import Success, operation
from shop.errors import ServiceUnavailable
from shop.storage.database import database

ALIVE = Success(200, "The process is alive", documents.Health)
READY = Success(200, "The service is ready", documents.Health)


class Liveness:
    """``/livez``: the process answers. It does not ask the database: a restart would not mend that."""

    @operation("isAlive", "Tell whether the process is alive", success=ALIVE, is_public=True)
    def on_get(self, _request: Request, response: falcon.Response) -> None:
        """Tell that the process is alive."""
        responses.write(response, {"status": "alive"})


class Readiness:
    """``/readyz``: requests can be served, the database included, and further ones are welcome.

    Args:
        is_draining: Tells whether the service is about to stop.
    """

    def __init__(self, is_draining: Callable[[], bool]) -> None:
        self._is_draining = is_draining

    @operation("isReady", "Tell whether the service can serve requests", success=READY, is_public=True)
    def on_get(self, _request: Request, response: falcon.Response) -> None:
        """Tell that the service is ready. Without its database the response is the 503 of any request."""
        if self._is_draining():
            raise ServiceUnavailable("The service is about to stop")
        database.ping()
        responses.write(response, {"status": "ready"})
