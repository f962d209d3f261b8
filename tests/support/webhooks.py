"""What the tests of webhooks have in common: a clock that a test moves, a receiver, and a deliverer."""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from types import TracebackType
from typing import Any, Self

from shop.demo.factories import OrderFactory, UserFactory
from shop.domain import webhooks
from shop.domain.models import WebhookDelivery
from shop.storage.database import database
from shop.webhooks.deliverer import Deliverer
from shop.webhooks.sender import Sender
from tests.harness.live import LIMIT, ROOT
from tests.harness.receiver import Received, Receiver
from tests.support.cases import CommittedApiTestCase, make_client
from tests.support.live import inherited

# Long enough for a test that waits for days by its own clock.
TOKEN_TTL = 10_000_000
# Deliverers that share what is left at the end of a test.
DELIVERERS = 4
ALLOWED = {"SHOP_WEBHOOK_ALLOW_HTTP": "1", "SHOP_WEBHOOK_ALLOW_PRIVATE": "1"}


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        # Receivers reject timestamps that are far from the real time.
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        """Move the clock on."""
        self.now += timedelta(**duration)


class SteppedDeliverer(Deliverer):
    """A deliverer that a test calls, instead of one that runs on its own."""

    def deliver_due(self) -> int:
        """Take all events and send everything that is due now, one after the other; return how many requests."""
        sent = 0
        while self._take():
            pass
        while claims := [claimed for endpoint in webhooks.list_all() for claimed in self._claims(endpoint, 1)]:
            for endpoint, claimed in claims:
                self._attempt(endpoint, claimed)
                sent += 1
        return sent


def make_deliverer(clock: Clock, *, timeout: float = 10.0, **options: Any) -> SteppedDeliverer:
    """Return a deliverer that sends to receivers on loopback, and waits without jitter."""
    return SteppedDeliverer(_sender(timeout), clock=clock, **({"chance": lambda: 0.0} | options))


@cache
def _sender(timeout: float) -> Sender:
    """Return a sender: reading the certificates of all authorities takes longer than most tests."""
    return Sender(allow_http=True, allow_private=True, timeout=timeout)


def sequences(requests: list[Received]) -> dict[str, list[str]]:
    """Return the statuses of each order that a receiver got, in the order of first arrival."""
    found: dict[str, list[str]] = {}
    seen = set()
    for request in requests:
        event_id = request.headers["webhook-id"]
        if event_id not in seen:
            seen.add(event_id)
            data = request.json["data"]
            found.setdefault(data["orderId"], []).append(data["status"])
    return found


class Deliver:
    """The process `shop deliver` on a database, for the duration of a block; it may send to loopback.

    Args:
        url: The database.
        environment: Further `SHOP_*` variables.

    Attributes:
        process: The process.
        log: What it wrote to stderr, once it has ended.
    """

    def __init__(self, url: str, **environment: str) -> None:
        settings = {"SHOP_DATABASE_URL": str(url), "SHOP_LOG_FORMAT": "json"}
        self.log = ""
        # Not a pipe: a full one would stop the process.
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `stop` closes it.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shop", "deliver"],
            env=inherited(measured=True) | ALLOWED | settings | environment,
            cwd=ROOT,
            stderr=self._stderr,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it if it still runs, and keep its log."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(LIMIT)
        if not self._stderr.closed:
            self._stderr.seek(0)
            self.log = self._stderr.read()
            self._stderr.close()


def deliver_the_rest() -> None:
    """Deliver what is left, with a clock that is ahead of all claims and retries."""
    clock = Clock()
    clock.advance(days=3)
    # A test may have restarted the server.
    database.close_all()
    with ThreadPoolExecutor(DELIVERERS) as threads:
        for delivery in [threads.submit(make_deliverer(clock).deliver_due) for _ in range(DELIVERERS)]:
            delivery.result()
    if WebhookDelivery.select().count():
        raise AssertionError("events are left that cannot be delivered")


class WebhookTestCase(CommittedApiTestCase):
    """A receiver that is registered, an API, and a deliverer, all with one clock.

    Attributes:
        clock: The clock.
        receiver: The receiver.
        endpoint: Its registration.
        secret: Its secret.
        deliverer: Delivers when the test calls it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.client = make_client(clock=self.clock, token_ttl=TOKEN_TTL)
        self.receiver = self.enterContext(Receiver())
        self.endpoint, self.secret = self.register(self.receiver)
        self.deliverer = make_deliverer(self.clock)
        self.ada = UserFactory.create()
        self.staff = UserFactory.create("staff")

    def register(self, receiver: Receiver, *types: str) -> tuple[webhooks.Endpoint, str]:
        """Register a receiver for events of these types, or of all."""
        return webhooks.add(receiver.url, types, allow_http=True, now=self.clock())

    def place(self) -> str:
        """Place an order and return its id."""
        order_id: str = self.client.post("/orders", OrderFactory.body(self.ada), user=self.ada).json["id"]
        return order_id

    def change(self, order_id: str, status: str) -> None:
        """Change the status of an order, as staff."""
        body = f'{{"status": "{status}"}}'.encode()
        self.client.request("PATCH", f"/orders/{order_id}", body, user=self.staff, status=200)
