"""A Falcon responder that does nothing, with the server settings of the service: the minimal cost of a response.

    python -m benchmark.bare PORT

Each response is as long as an order. Request bodies are read and dropped.
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
