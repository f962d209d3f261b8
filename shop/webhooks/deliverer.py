"""The process `shop deliver`: takes events out of the orders' rows and sends them, several at a time.

Any number of deliverers may run at once, see `shop.domain.deliveries`. None keeps anything in memory that would be
missed if it were killed.
"""

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from shop.domain import deliveries, webhooks
from shop.domain.deliveries import Claim
from shop.domain.webhooks import Endpoint
from shop.storage import database
from shop.webhooks.metrics import DeliveryMetrics
from shop.webhooks.sender import GONE, Outcome, Sender

# How long after each failed attempt the next one follows: 5 s, 30 s, 5 min, 1 h, 6 h and 24 h.
RETRIES = [timedelta(seconds=seconds) for seconds in (5, 30, 300, 3600, 21_600, 86_400)]
# Each wait is longer by a random part of itself, up to this one, so that a receiver that returns is not flooded.
JITTER = 0.1
# How long a claim lasts. A request takes 10 seconds at most, and a slow look-up of its name some 30 more.
LEASE = timedelta(seconds=60)
# How often the deliverer looks for events and due deliveries, in seconds.
POLL = 0.2
# How long it waits after the database could not serve, in seconds.
OUTAGE_PAUSE = 1.0
# Orders that are taken in one round.
BATCH = 100
# Requests at a time: to all endpoints, and to one, so that a slow receiver does not hold up the others.
AT_ONCE = 32
AT_ONCE_TO_ONE = 4

log = logging.getLogger(__name__)


class Deliverer:
    """Delivers events to endpoints.

    Args:
        sender: Sends the requests.
        clock: Returns the current time, aware.
        metrics: Counts; None if the metrics are not served.
        chance: Returns a number from 0 to 1 for the jitter.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        clock: Callable[[], datetime],
        metrics: DeliveryMetrics | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._metrics = metrics
        self._chance = chance
        self._in_flight: Counter[str] = Counter()
        self._lock = threading.Lock()
        # Set when a request has ended, and when the process is to stop.
        self._wake = threading.Event()
        self._stopping = False

    def stop(self) -> None:
        """Let `run` return when the requests in flight have ended. Signal handlers may call it."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        """Deliver until `stop` is called. While the database cannot serve, try again every second."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as threads:
            while not self._stopping:
                self._wake.clear()
                try:
                    self._take()
                    self._send_due(threads)
                    self._note_age()
                    pause = POLL
                except database.Error as error:
                    if not database.is_outage(error):
                        raise
                    log.warning("deliveries wait: the database cannot serve", exc_info=error)
                    pause = OUTAGE_PAUSE
                if not self._stopping:
                    self._wake.wait(pause)

    def _take(self) -> int:
        """Take the events of some orders, and return of how many."""
        found = deliveries.orders_to_take(BATCH)
        endpoints = webhooks.list_all() if found else []
        for user_id, order_id in found:
            deliveries.take(user_id, order_id, endpoints, now=self._clock())
        return len(found)

    def _send_due(self, threads: Executor) -> None:
        endpoints = webhooks.list_all()
        # If all requests at a time are in flight, each endpoint has its chance.
        random.shuffle(endpoints)
        for endpoint in endpoints:
            with self._lock:
                room = min(AT_ONCE_TO_ONE - self._in_flight[endpoint.id], AT_ONCE - self._in_flight.total())
            for _, claimed in self._claims(endpoint, room):
                with self._lock:
                    self._in_flight[endpoint.id] += 1
                threads.submit(self._attempt_in_thread, endpoint, claimed)

    def _claims(self, endpoint: Endpoint, room: int) -> Iterator[tuple[Endpoint, Claim]]:
        if room <= 0:
            return
        for found in deliveries.due(endpoint.id, now=self._clock(), limit=room):
            claimed = deliveries.claim(found, until=self._clock() + LEASE)
            if claimed is not None:
                yield endpoint, claimed

    def _attempt_in_thread(self, endpoint: Endpoint, claimed: Claim) -> None:
        try:
            self._attempt(endpoint, claimed)
        except Exception as error:
            # The claim expires, and the event is sent again.
            log.warning("the outcome of a webhook could not be recorded", exc_info=error)
        finally:
            with self._lock:
                self._in_flight[endpoint.id] -= 1
            self._wake.set()

    def _attempt(self, endpoint: Endpoint, claimed: Claim) -> None:
        """Send an event once, record the outcome, and log it."""
        secrets = webhooks.signing_secrets(endpoint.id, now=self._clock())
        if endpoint.disabled_at is not None or not secrets:
            outcome = Outcome(None, "the endpoint is disabled", 0.0)
        else:
            outcome = self._sender.send(endpoint.url, claimed.event, secrets, now=self._clock())
        now = self._clock()
        retried = claimed.attempts - 1
        if outcome.is_delivered:
            result = "delivered"
            deliveries.delivered(claimed, now=now)
        elif outcome.status == GONE or endpoint.disabled_at is not None:
            result = "disabled"
            webhooks.disable(endpoint.id, now=endpoint.disabled_at or now)
            deliveries.give_up(claimed, now=now)
        elif retried < len(RETRIES):
            result = "retried"
            deliveries.retry(claimed, at=now + RETRIES[retried] * (1 + JITTER * self._chance()))
        else:
            result = "failed"
            deliveries.give_up(claimed, now=now)
        if self._metrics is not None:
            self._metrics.attempts.labels(result).inc()
        self._log(result, endpoint, claimed, outcome)

    def _log(self, result: str, endpoint: Endpoint, claimed: Claim, outcome: Outcome) -> None:
        """Write a line about an attempt. The path of the URL is left out, because it may have a token in it."""
        fields = {
            "outcome": result,
            "event_id": claimed.event.id,
            "event_type": claimed.event.type,
            "order_id": claimed.due.order_id,
            "endpoint_id": endpoint.id,
            "host": urlsplit(endpoint.url).hostname,
            "attempt": claimed.attempts,
            "status": outcome.status,
            "failure": outcome.failure,
            "ms": round(outcome.seconds * 1000, 2),
        }
        level = logging.INFO if result == "delivered" else logging.WARNING
        log.log(level, "webhook", extra={"fields": fields})

    def _note_age(self) -> None:
        if self._metrics is not None:
            oldest = deliveries.oldest_undelivered()
            self._metrics.age.set(max(0.0, (self._clock() - oldest).total_seconds()) if oldest else 0.0)
