"""The least that an answer costs here: a Falcon responder that does nothing, on the service's own server settings.

    python -m benchmark.bare PORT

Any path is answered with the number of bytes that an order has; a body is read, and dropped.
"""

import sys
from collections.abc import Callable
from typing import Any

import falcon

from shop.serving.server import make_server
from shop.settings import Settings

ANSWER = b'{"status":"' + b"x" * 400 + b'"}'


class Responder:
    """Answers everything."""

    def on_get(self, _request: falcon.Request, response: falcon.Response, **_params: str) -> None:
        """Answer."""
        response.data = ANSWER

    def on_post(self, request: falcon.Request, response: falcon.Response, **_params: str) -> None:
        """Read, and answer."""
        request.env["wsgi.input"].read()
        response.status = falcon.HTTP_201
        response.data = ANSWER


def make_app() -> Callable[..., Any]:
    """Return the application."""
    app = falcon.App()
    responder = Responder()
    for template in ("/users/{user_id}", "/users/{user_id}/orders", "/orders/{order_id}", "/orders"):
        app.add_route(template, responder)
    return app


if __name__ == "__main__":
    make_server(Settings.load(port=int(sys.argv[1]))).serve(target_loader=make_app, wrap_loader=False)
