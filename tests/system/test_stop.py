"""How the service ends and is replaced: draining, a rolling restart under load, workers that die again and again."""

import time
import unittest
from typing import ClassVar

from tests.harness.live import LIMIT, Connection, NotReady, still_running, until
from tests.harness.postgres import clone, drop, setUpModule, tearDownModule
from tests.support.cases import SECRET_KEY
from tests.support.faults import Load, orders_by_key, roll
from tests.support.live import LiveShop

DRAIN = 1


class StopTestCase(unittest.TestCase):
    database_url: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        database = clone("stop")
        cls.database_url = database.url
        cls.addClassCleanup(drop, database)

    def shop(self, **settings: str) -> LiveShop:
        """Return a started service that stops at the end of the test at the latest."""
        environment = {
            "SHOP_DATABASE_URL": self.database_url,
            "SHOP_SECRET_KEY": SECRET_KEY,
            "SHOP_ARGON2_TIME_COST": "1",
            "SHOP_ARGON2_MEMORY_COST": "8",
            # Whatever is on stderr then is worth a look.
            "SHOP_LOG_LEVEL": "error",
        }
        return self.enterContext(LiveShop(environment=environment | settings, measured=False))


class DrainTest(StopTestCase):
    """From the signal to the end."""

    def test_before_it_stops_it_is_not_ready_and_closes_connections(self) -> None:
        shop = self.shop(SHOP_DRAIN_SECONDS=str(DRAIN))
        with Connection(shop.url) as kept, Connection(shop.url) as probe:
            self.assertIsNone(kept.get("/livez").headers["Connection"])
            signalled = time.monotonic()
            shop.terminate()
            until(lambda: probe.get("/readyz").status == 503, "it says that it is not ready")
            answer = kept.get("/livez")
            self.assertEqual(
                (200, "close"), (answer.status, answer.headers["Connection"]), "it serves, and says farewell"
            )
            self.assertIsNone(kept.local_address)
            refusal = probe.get("/readyz")
            self.assertEqual((503, "1", "The service is about to stop"), self.shown(refusal))
        self.assertEqual(0, shop.wait())
        self.assertGreaterEqual(time.monotonic() - signalled, DRAIN)
        self.assertEqual([], shop.stderr)

    def test_a_second_signal_ends_the_drain(self) -> None:
        shop = self.shop(SHOP_DRAIN_SECONDS="60")
        shop.terminate()
        with Connection(shop.url) as probe:
            until(lambda: probe.get("/readyz").status == 503, "it drains")
        shop.terminate()
        self.assertEqual(0, shop.wait(LIMIT))

    @staticmethod
    def shown(refusal):
        return refusal.status, refusal.headers["Retry-After"], refusal.json["error"]


class RollingRestartTest(StopTestCase):
    """A new instance beside the old one, behind a front that asks both whether they are ready."""

    def test_no_request_fails_while_one_instance_takes_over_from_the_other(self) -> None:
        old = self.shop(SHOP_DRAIN_SECONDS=str(DRAIN))
        with roll(old, lambda: self.shop(SHOP_DRAIN_SECONDS=str(DRAIN))) as (front, replace), Load(front) as load:
            replace()
            load.until_served(100)
        self.assertEqual(0, old.process.returncode)
        self.assertEqual([], [outcome for outcome in load.outcomes if not outcome.is_served])
        stored = orders_by_key(self.database_url)
        self.assertEqual(load.acknowledged.keys(), stored.keys())
        self.assertEqual({1}, set(stored.values()))


class DyingWorkersTest(StopTestCase):
    """Workers that are killed faster than it is any use to replace them."""

    def test_if_workers_die_repeatedly_it_stops_with_status_1(self) -> None:
        shop = self.shop()
        family = shop.family()
        known: set[int] = set()
        deadline = time.monotonic() + LIMIT
        while shop.process.poll() is None and time.monotonic() < deadline:
            for worker in shop.workers() if shop.process.poll() is None else ():
                if worker.pid not in known:
                    known.add(worker.pid)
                    worker.kill()
        self.assertEqual(1, shop.wait())
        sentence = "shop: worker processes died repeatedly, so the service has stopped"
        # granian writes what it has seen in its own time.
        self.assertIn(sentence, shop.stderr)
        self.assertEqual([], still_running(family))
        self.assertEqual([], [line for line in shop.stderr if "Traceback" in line])

    def test_a_service_whose_workers_cannot_start_says_so_and_ends(self) -> None:
        # Nobody can have that many connections: the workers end before they serve.
        with self.assertRaisesRegex(NotReady, "status 1"):
            self.shop(SHOP_ARGON2_MEMORY_COST=str(2**31))
