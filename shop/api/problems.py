"""Error responses: every error gets one shape, served as ``application/problem+json`` (RFC 9457)."""

import logging
from typing import Any, cast

import falcon

from shop import errors, exactjson
from shop.api import middleware
from shop.api.context import Request
from shop.api.responses import Response
from shop.storage import database

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# Falcon's own errors, by status. All others are requests that HTTP does not allow.
_FALCON_ERRORS = {404: errors.NotFound, 405: errors.MethodNotAllowed}


def install(app: falcon.App[Any, Any]) -> None:
    """Make `app` answer every error in the one shape, and log those that the client did not cause."""
    app.add_error_handler(Exception, _on_exception)
    app.add_error_handler(falcon.HTTPError, _on_falcon_error)
    app.add_error_handler(database.Error, _on_database_error)
    app.add_error_handler(errors.ShopError, _on_shop_error)


def _on_shop_error(
    request: Request, response: falcon.Response, error: errors.ShopError, _params: dict[str, Any]
) -> None:
    if not request.context.request_id:
        # Falcon refuses some methods before any middleware runs.
        middleware.RequestId().process_request(request, cast(Response, response))
    request.context.problem = error.code
    response.status = status = falcon.code_to_http_status(error.status)
    response.content_type = MEDIA_TYPE
    problem: dict[str, object] = {
        "title": status.split(" ", 1)[1],
        "status": error.status,
        "code": error.code,
        "error": str(error),
    }
    if error.errors:
        problem["errors"] = [fault._asdict() for fault in error.errors]
    problem["requestId"] = request.context.request_id
    response.data = exactjson.dumps(problem)
    response.set_headers(dict(error.headers))


def _on_falcon_error(
    request: Request, response: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    refusal = _FALCON_ERRORS.get(error.status_code, errors.BadRequest)()
    _on_shop_error(request, response, refusal, params)
    # A 405 keeps Falcon's `Allow`.
    response.set_headers(error.headers or {})


def _on_database_error(
    request: Request, response: falcon.Response, error: database.Error, params: dict[str, Any]
) -> None:
    if not database.is_outage(error):
        _on_exception(request, response, error, params)
        return
    log.warning("%s %s: the database cannot serve", request.method, request.uri_template, exc_info=error)
    _on_shop_error(request, response, errors.ServiceUnavailable(), params)


def _on_exception(request: Request, response: falcon.Response, error: Exception, params: dict[str, Any]) -> None:
    # The log has the traceback. The response has only the request id, by which to find it.
    log.error(
        "%s %s failed (request %s)",
        request.method,
        request.uri_template,
        request.context.request_id,
        exc_info=error,
    )
    _on_shop_error(request, response, errors.InternalError(), params)
