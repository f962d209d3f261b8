"""Pages of other origins: which may call the API from a browser, and what they may send and read."""

from collections.abc import Sequence
from typing import Any

import falcon

ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key"
EXPOSED_HEADERS = ("Location", "Link", "Retry-After", "X-Request-ID", "Idempotent-Replayed")


class Cors(falcon.CORSMiddleware[Any, Any]):
    """Falcon's middleware with a fixed list of request headers, and answers that caches can tell apart.

    Credentials of a browser (cookies, passwords that it keeps) are never allowed: a token is sent by the page itself.

    Args:
        origins: The origins whose pages may call the API, each as a browser sends it in ``Origin``.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        super().__init__(allow_origins=origins, expose_headers=EXPOSED_HEADERS)

    def process_response(
        self, request: falcon.Request, response: falcon.Response, resource: object, succeeded: bool
    ) -> None:
        """Add the headers, also to errors."""
        super().process_response(request, response, resource, succeeded)
        response.append_header("Vary", "Origin")
        if response.get_header("Access-Control-Allow-Headers"):
            # Falcon would allow whatever the browser asks for.
            response.set_header("Access-Control-Allow-Headers", ALLOWED_HEADERS)
