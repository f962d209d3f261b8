"""The request observer: a log line and metrics for each request, and the log of slow statements."""

import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from shop.api.context import Observer, Request
from shop.api.responses import Response
from shop.serving.logs import LogWriter, current_request
from shop.serving.proxies import Proxies
from shop.storage.database import database
from shop.storage.statements import is_prepare, statement_text

if TYPE_CHECKING:
    from shop.serving.metrics import Metrics

log = logging.getLogger(__name__)


class _Level(NamedTuple):
    name: str
    number: int


_INFO = _Level("info", logging.INFO)
# A 503 is not a bug: it ends when the load or the outage ends.
_LEVELS = {500: _Level("error", logging.ERROR), 503: _Level("warning", logging.WARNING)}


class RequestObserver(Observer):
    """Logs and counts the requests and statements of this process.

    Its cost is added to every request, so it is optimized.

    Args:
        writer: Writes the log.
        metrics: Counts; None if the metrics are not served.
        proxies: Finds the address of the client.
        slow_query_ms: A statement that takes this long, in milliseconds, is logged; 0 turns that off.
    """

    def __init__(self, writer: LogWriter, metrics: "Metrics | None", proxies: Proxies, slow_query_ms: float) -> None:
        self._writer = writer
        self._logged = writer.level
        self._metrics = metrics
        self._proxies = proxies
        self._slow = slow_query_ms / 1000 or float("inf")

        database.query_hooks.append(self._count_statement)
        if metrics:
            database.connection_hooks.append(metrics.add_connection)

    def process_request(self, request: Request, response: Response) -> None:
        """Start to measure a request."""
        context = request.context
        current_request.request_id = context.request_id
        current_request.statements = 0
        current_request.seconds = 0.0
        if self._metrics:
            self._metrics.start_request()
        context.started = perf_counter()

    def process_response(self, request: Request, response: Response, resource: object, succeeded: bool) -> None:
        """Log and count a request; its response is complete."""
        now = perf_counter()
        started = request.context.started
        # Falcon refuses some methods before any middleware runs.
        seconds = 0.0 if started is None else now - started
        status = response.status_code
        if self._metrics:
            if started is not None:
                self._metrics.end_request()
            self._metrics.count_request(
                (request.method, request.uri_template, status), seconds, request.context.problem
            )
        level = _LEVELS.get(status, _INFO)
        if level.number >= self._logged:
            self._write(request, level.name, status, seconds)
        current_request.request_id = None

    def count_hashing(self, change: int) -> None:
        """Change the number of logins and registrations in progress by 1 or -1."""
        if self._metrics:
            self._metrics.hashing_requests.inc(change)

    def _count_statement(self, event: Any) -> None:
        current_request.statements += not is_prepare(event.sql)
        current_request.seconds += event.duration
        if event.duration >= self._slow:
            # The text has placeholders in place of the values.
            log.warning(
                "slow statement",
                extra={"fields": {"database_ms": round(event.duration * 1000, 2), "sql": statement_text(event.sql)}},
            )
            if self._metrics:
                self._metrics.slow_statements.inc()

    def _write(self, request: Request, level: str, status: int, seconds: float) -> None:
        environ = request.env
        context = request.context
        actor = getattr(context, "actor", None)
        self._writer.write(
            level,
            "request",
            {
                "request_id": context.request_id,
                "method": request.method,
                # Not the path: it contains ids of users and orders.
                "route": request.uri_template,
                "status": status,
                "code": context.problem,
                "ms": round(seconds * 1000, 2),
                "user_id": actor.user_id if actor else None,
                "client": self._proxies.client(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR")),
                "statements": current_request.statements,
                "database_ms": round(current_request.seconds * 1000, 2),
            },
        )
