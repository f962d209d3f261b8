"""CORS: which pages of other origins may call the API from a browser, and which headers they may use."""

from collections.abc import Sequence
from typing import Any

import falcon

ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key"
EXPOSED_HEADERS = ("Location", "Link", "Retry-After", "X-Request-ID", "Idempotent-Replayed")


class Cors(falcon.CORSMiddleware[Any, Any]):
    """Falcon's CORS middleware with a fixed list of request headers, and ``Vary: Origin`` for caches.

    Browser credentials such as cookies are never allowed: the page itself sends the token.

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
            # Falcon would allow every header that the browser asks for.
            response.set_header("Access-Control-Allow-Headers", ALLOWED_HEADERS)
