"""What is noted of every request: its line in the log, its part in the metrics, and statements that were slow."""

import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import falcon

from shop.serving.logs import Writer, current
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
# A 503 is nobody's mistake, and ends by itself or with the outage.
_LEVELS = {500: _Level("error", logging.ERROR), 503: _Level("warning", logging.WARNING)}


class Observer:
    """What a process notes, and where; made once in it, it notes the statements of the process from then on.

    Args:
        writer: Takes the lines.
        metrics: Counts; None where nobody reads them.
        proxies: Know the client's address.
        slow_query_ms: From how many milliseconds on a statement is logged; 0 is never.
    """

    def __init__(self, writer: Writer, metrics: "Metrics | None", proxies: Proxies, slow_query_ms: int) -> None:
        self.writer = writer
        self.metrics = metrics
        self.proxies = proxies
        self._slow = slow_query_ms / 1000 or float("inf")

        database.query_hooks.append(self._note_statement)
        if metrics:
            database.connection_hooks.append(metrics.add_connection)

    def note_hashing(self, more: int) -> None:
        """Note that so many requests more hash a password, or wait for that; less than 0 when they have done."""
        if self.metrics:
            self.metrics.hashing_requests.inc(more)

    def _note_statement(self, event: Any) -> None:
        current.statements += not is_prepare(event.sql)
        current.seconds += event.duration
        if event.duration >= self._slow:
            # The text has slots where the values go.
            log.warning(
                "slow statement",
                extra={"fields": {"database_ms": round(event.duration * 1000, 2), "sql": statement_text(event.sql)}},
            )
            if self.metrics:
                self.metrics.slow_statements.inc()


class Observation:
    """Notes each request when it has been answered; it stands behind `RequestId` and before all others.

    Every request pays for what is done here, so it is written to be quick.

    Args:
        observer: Where to.
    """

    def __init__(self, observer: Observer) -> None:
        self._writer = observer.writer
        self._metrics = observer.metrics
        self._proxies = observer.proxies
        self._logged = observer.writer.level

    def process_request(self, request: falcon.Request, _response: falcon.Response) -> None:
        """Begin to measure."""
        context = request.context
        current.request_id = context.request_id
        current.statements = 0
        current.seconds = 0.0
        if self._metrics:
            self._metrics.start_request()
        context.started = perf_counter()

    def process_response(
        self, request: falcon.Request, response: falcon.Response, _resource: object, _succeeded: bool
    ) -> None:
        """Note what came of it; the answer is complete, and about to be sent."""
        noted = request.context.__dict__
        now = perf_counter()
        # Falcon refuses some methods before any middleware runs.
        started = noted.get("started")
        seconds = 0.0 if started is None else now - started
        status = response.status_code
        if self._metrics:
            if started is not None:
                self._metrics.end_request()
            self._metrics.count_request((request.method, request.uri_template, status), seconds, noted.get("problem"))
        level = _LEVELS.get(status, _INFO)
        if level.number >= self._logged:
            self._write(request, noted, level.name, status, seconds)
        current.request_id = None

    def _write(self, request: falcon.Request, noted: dict[str, Any], level: str, status: int, seconds: float) -> None:
        environ = request.env
        actor = noted.get("actor")
        self._writer.write(
            level,
            "request",
            {
                "request_id": noted.get("request_id"),
                "method": request.method,
                # Never the path itself: who reads the log is not to learn whose orders somebody looks at.
                "route": request.uri_template,
                "status": status,
                "code": noted.get("problem"),
                "ms": round(seconds * 1000, 2),
                "user_id": actor.user_id if actor else None,
                "client": self._proxies.client(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR")),
                "statements": current.statements,
                "database_ms": round(current.seconds * 1000, 2),
            },
        )
