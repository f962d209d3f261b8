"""``/livez`` and ``/readyz``, for whatever decides about restarts and traffic."""

import falcon

from shop.api import responses
from shop.database import database


class Liveness:
    """``/livez``: the process answers. It does not ask the database: a restart would not mend that."""

    PUBLIC = ("GET", "HEAD")

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Say that the process is alive."""
        responses.write(response, {"status": "alive"})


class Readiness:
    """``/readyz``: requests can be served, the database included."""

    PUBLIC = ("GET", "HEAD")

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Say that the service is ready; without its database the answer is the 503 of any request."""
        database.ping()
        responses.write(response, {"status": "ready"})
