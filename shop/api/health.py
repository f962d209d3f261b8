"""The probes ``/livez`` and ``/readyz``, for supervisors that restart processes or route traffic."""

from collections.abc import Callable
from dataclasses import dataclass

import falcon

from shop.api import response_schemas, responses
from shop.api.context import Request
from shop.api.operations import Success, operation
from shop.errors import ServiceUnavailable
from shop.storage.database import database


class LivenessResource:
    """``/livez``. It does not check the database: a restart would not repair that."""

    @operation("isAlive", success=Success(200, "The process is alive", response_schemas.Health), is_public=True)
    def on_get(self, _request: Request, response: falcon.Response) -> None:
        """Tell whether the process is alive."""
        responses.write(response, {"status": "alive"})


@dataclass(eq=False)
class ReadinessResource:
    """``/readyz``. It is ready if the database answers and the service is not about to stop."""

    is_draining: Callable[[], bool]

    @operation("isReady", success=Success(200, "The service is ready", response_schemas.Health), is_public=True)
    def on_get(self, _request: Request, response: falcon.Response) -> None:
        """Tell whether the service can serve requests."""
        if self.is_draining():
            raise ServiceUnavailable("The service is about to stop")
        database.ping()
        responses.write(response, {"status": "ready"})
