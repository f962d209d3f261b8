"""A queue on the real server: requests that have waited too long get a 503, and those behind them are served."""

import time
from contextlib import closing
from http.client import HTTPConnection
from typing import ClassVar

import psycopg2

from tests.harness.live import LIMIT, until
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import LiveServerTestCase

WAITS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE datname = current_database() AND NOT granted
"""


class WaitingTest(LiveServerTestCase):
    """The service has one thread; the test stamps its requests as the front does."""

    LIMIT = 1
    environment: ClassVar[dict[str, str]] = {
        "SHOP_WORKERS": "1",
        "SHOP_THREADS": "1",
        "SHOP_QUEUE_TIMEOUT": str(LIMIT),
        "SHOP_LOG_LEVEL": "error",
    }

    def send(self, path: str) -> HTTPConnection:
        """Send a request, and do not wait for the answer."""
        client = HTTPConnection("127.0.0.1", self.shop.port, timeout=LIMIT)
        self.addCleanup(client.close)
        sent = {"Authorization": f"Bearer {self.connection.token}", "X-Request-Start": f"t={time.time():.3f}"}
        client.request("GET", path, headers=sent)
        return client

    def test_requests_behind_one_that_takes_too_long_get_a_503(self):
        path = f"/users/{self.log_in_anew()}"
        with closing(psycopg2.connect(self.database_url)) as other, other, other.cursor() as lock:
            lock.execute("LOCK TABLE users")
            slow = self.send(path)
            until(lambda: lock.execute(WAITS) or lock.fetchone() == (1,), "the first request holds the only thread")
            behind = [self.send(path) for _ in range(5)]
            alive = self.send("/livez")
            sent = time.monotonic()
            until(lambda: time.monotonic() > sent + self.LIMIT, "the others have waited too long")
            fresh = self.send(path)
        self.assertEqual(200, slow.getresponse().status)
        self.assertEqual([503] * 5, [client.getresponse().status for client in behind])
        self.assertEqual([200, 200], [client.getresponse().status for client in (alive, fresh)])
