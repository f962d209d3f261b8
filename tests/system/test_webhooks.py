"""`shop deliver` and `shop serve --deliver` as processes, and the faults that they outlast.

After each fault, every event of a stored order has arrived at least once, events of an order came in order, and nothing
was sent for an order that is not stored. A claim lasts a minute; instead of waiting, the last events are delivered by a
deliverer whose clock is ahead.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from datetime import UTC, datetime
from pathlib import Path

from standardwebhooks import Webhook

from shop.domain import webhooks
from shop.domain.models import WebhookDelivery
from shop.storage.database import database
from tests.harness.live import LIMIT, ROOT, Connection, free_port, still_running, until
from tests.harness.postgres import current_url, point_at, run_database_url, setUpModule, tearDownModule
from tests.harness.receiver import Receiver
from tests.support.cases import SECRET_KEY, CommittedApiTestCase
from tests.support.faults import FaultyDatabase, Load, an_order, register
from tests.support.live import LiveShop, run_shop
from tests.support.webhooks import (
    ALLOWED,
    Deliver,
    WebhookTestCase,
    deliver_the_rest,
    sequences,
)

CHEAP = {"SHOP_ARGON2_TIME_COST": "1", "SHOP_ARGON2_MEMORY_COST": "8"}


class DocumentedReceiverTest(WebhookTestCase):
    """The receiver of docs/webhooks.md, in a process of its own."""

    def test_the_documented_receiver_prints_a_verified_event(self):
        (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text("utf-8"), re.DOTALL)
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        _, secret = webhooks.add(url, ["order.placed"], allow_http=True, now=self.clock())
        command = [sys.executable, "-c", program.replace("9000", str(port)), secret]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as receiver:
            try:
                until(lambda: _listens(port), "the receiver listens")
                order_id = self.place()
                self.deliverer.deliver_due()
                self.assertIn(order_id, receiver.stdout.readline())
            finally:
                receiver.terminate()
        self.assertEqual(0, WebhookDelivery.select().count(), "it was accepted")


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class ServeTest(unittest.TestCase):
    """`shop serve --deliver` with the embedded database, as a newcomer runs it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="shop-deliver-")))
        folder.chmod(0o711)
        cls.home = folder / "data"

    def test_an_order_is_a_verified_event_within_a_second(self):
        receiver = self.enterContext(Receiver())
        with LiveShop(self.home, environment=CHEAP | ALLOWED, arguments=["--deliver"]) as shop:
            added = run_shop("webhooks", "add", receiver.url, "--data-dir", self.home, **ALLOWED)
            (secret,) = re.findall(r"whsec_\S+", added.stdout)
            token, user_id = register(shop.url)
            with Connection(shop.url, token) as connection:
                took = []
                # The best of ten: other processes of the machine may delay one.
                for number in range(1, 11):
                    order = connection.post("/orders", an_order(user_id)).json
                    began = time.monotonic()
                    received = receiver.wait_for(number)[-1]
                    took.append(time.monotonic() - began)
                    if took[-1] < 1:
                        break
            Webhook(secret).verify(received.body, received.headers)
            self.assertEqual(order["id"], received.json["data"]["orderId"])
            self.assertLess(min(took), 1)
            family = shop.family()
            shop.terminate()
            self.assertEqual(0, shop.wait())
            until(lambda: not still_running(family), "the deliverer has ended too")

    def test_the_deliverer_ends_with_a_server_that_is_killed(self):
        with LiveShop(self.home, environment=CHEAP | ALLOWED, arguments=["--deliver"]) as shop:
            family = shop.family()
            os.kill(shop.process.pid, signal.SIGKILL)
            until(lambda: not still_running(family), "all processes have ended")


class FaultTest(unittest.TestCase):
    """Faults of the deliverer and of the database, under load."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.database = cls.enterClassContext(FaultyDatabase())
        cls.addClassCleanup(point_at, current_url())
        cls.addClassCleanup(database.close_all)
        point_at(cls.database.url)
        environment = CHEAP | {"SHOP_DATABASE_URL": cls.database.url, "SHOP_SECRET_KEY": SECRET_KEY}
        cls.shop = cls.enterClassContext(LiveShop(environment=environment, measured=False))

    def setUp(self):
        self.receiver = self.enterContext(Receiver())
        endpoint, _ = webhooks.add(self.receiver.url, [], allow_http=True, now=datetime.now(UTC))
        self.addCleanup(webhooks.remove, str(endpoint.id))
        self.before = self.stored()

    def load(self):
        """Return clients that place some orders a second: each of their events is delivered."""
        return Load(lambda: self.shop.url, clients=2, pause=0.1)

    def stored(self):
        """Return the statuses of each stored order, by its events."""
        rows = self.database.execute("SELECT id::text, events FROM orders")
        return {order_id: [event["data"]["status"] for event in events] for order_id, events in rows}

    def assertAllArrived(self, load):
        """Fail unless the receiver knows exactly the events of the orders placed since the start of the test."""
        deliver_the_rest()
        expected = {order_id: events for order_id, events in self.stored().items() if order_id not in self.before}
        self.assertGreater(len(expected), 20)
        self.assertLessEqual(set(load.acknowledged.values()), set(expected))
        self.assertEqual(expected, sequences(self.receiver.requests))

    def cancel_some(self, load):
        """Cancel each second order of a load, so that some orders have two events."""
        with Connection(self.shop.url, load.token) as connection:
            for order_id in list(load.acknowledged.values())[::2]:
                body = b'{"status": "cancelled"}'
                self.assertEqual(200, connection.request("PATCH", f"/orders/{order_id}", body).status)

    def test_a_deliverer_killed_between_sending_and_recording(self):
        killed = []

        def kill(_received):
            if not killed:
                killed.append(deliver.process.pid)
                deliver.process.send_signal(signal.SIGKILL)
                deliver.process.wait(LIMIT)
            return 200

        self.receiver.usual = kill
        with Deliver(self.database.url) as deliver, self.load() as load:
            load.until_served(60)
            until(lambda: killed, "the deliverer is killed")
        self.cancel_some(load)
        with Deliver(self.database.url):
            self.receiver.wait_for(20)
        self.assertAllArrived(load)

    def test_postgresql_restarts_in_between(self):
        with Deliver(self.database.url) as deliver, self.load() as load:
            self.receiver.wait_for(10)
            self.database.stop()
            load.until_refused(5)
            self.database.start()
            load.until_served(50)
            count = len(self.receiver.requests)
            self.receiver.wait_for(count + 10)
            self.assertIsNone(deliver.process.poll(), "it has outlasted the restart")
        self.cancel_some(load)
        self.assertAllArrived(load)

    def test_two_deliverers_at_once(self):
        with (
            Deliver(self.database.url),
            Deliver(self.database.url),
            self.load() as load,
        ):
            load.until_served(60)
            self.cancel_some(load)
            until(lambda: len(sequences(self.receiver.requests)) >= 20, "twenty orders have arrived")
        self.assertAllArrived(load)

    def test_the_log_has_each_attempt_and_no_secret_and_the_end_is_orderly(self):
        with Deliver(self.database.url, SHOP_WEBHOOK_ALLOW_PRIVATE="0") as deliver:
            with self.load() as load:
                load.until_served(10)
            until(lambda: WebhookDelivery.select().where(WebhookDelivery.attempts > 0).count(), "one was tried")
            deliver.process.terminate()
            self.assertEqual(0, deliver.process.wait(LIMIT))
        self.assertIn('"message":"webhook"', deliver.log)
        self.assertIn('"failure":"the address is not public"', deliver.log)
        ((secret,),) = self.database.execute("SELECT secret FROM webhook_endpoints")
        self.assertNotIn(secret, deliver.log)
        self.assertEqual([], self.receiver.requests)


class MetricsTest(CommittedApiTestCase):
    """`shop deliver` with SHOP_METRICS_PORT."""

    def test_it_serves_its_metrics(self):
        port = free_port()
        with Deliver(run_database_url(), SHOP_METRICS_PORT=str(port)):

            def scrape():
                try:
                    with Connection(f"http://127.0.0.1:{port}") as connection:
                        return connection.get("/metrics").content.decode()
                except OSError:
                    return ""

            until(scrape, "it answers")
            self.assertIn("shop_webhook_oldest_undelivered_seconds 0.0", scrape())
