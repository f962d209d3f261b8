"""Errors as responses: one shape for all of them, served as ``application/problem+json`` (RFC 9457)."""

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

# What Falcon itself refuses, by status. Anything else it could say is a request that cannot be understood.
_FALCON_REFUSALS = {404: errors.NotFound, 405: errors.MethodNotAllowed}


def install(app: falcon.App[Any, Any]) -> None:
    """Make `app` answer every error in the one shape, and log those that are ours."""
    app.add_error_handler(Exception, _on_exception)
    app.add_error_handler(falcon.HTTPError, _on_falcon_error)
    app.add_error_handler(database.Error, _on_database_error)
    app.add_error_handler(errors.ShopError, _on_shop_error)


def _on_shop_error(
    request: Request, response: falcon.Response, error: errors.ShopError, _params: dict[str, Any]
) -> None:
    _write(request, response, error.status, error.code, str(error), faults=error.errors)
    response.set_headers(dict(error.headers))


def _on_falcon_error(
    request: Request, response: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    refusal = _FALCON_REFUSALS.get(error.status_code, errors.BadRequest)()
    _on_shop_error(request, response, refusal, params)
    # The Allow of a 405 is Falcon's.
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
    # The log has the traceback and the request's id to find it by; the response has only the id.
    log.error(
        "%s %s failed (request %s)",
        request.method,
        request.uri_template,
        request.context.request_id,
        exc_info=error,
    )
    _on_shop_error(request, response, errors.InternalError(), params)


def _write(
    request: Request,
    response: falcon.Response,
    status: int,
    code: str,
    sentence: str,
    *,
    faults: tuple[errors.FieldError, ...] = (),
) -> None:
    if not request.context.request_id:
        # Falcon refuses some methods before any middleware runs.
        middleware.RequestId().process_request(request, cast(Response, response))
    request.context.problem = code
    response.status = falcon.code_to_http_status(status)
    response.content_type = MEDIA_TYPE
    response.data = document(status, code, sentence, request.context.request_id, faults)


def document(
    status: int, code: str, sentence: str, request_id: str, faults: tuple[errors.FieldError, ...] = ()
) -> bytes:
    """Return an error as the API shows it."""
    title = falcon.code_to_http_status(status).split(" ", 1)[1]
    problem: dict[str, object] = {"title": title, "status": status, "code": code, "error": sentence}
    if faults:
        problem["errors"] = [fault._asdict() for fault in faults]
    problem["requestId"] = request_id
    return exactjson.dumps(problem)
