"""Requests that have waited for a thread for too long are told so, and make room."""

import time
from http.client import HTTPConnection
from typing import ClassVar

import psycopg2

from shop.api.middleware import WAITED
from shop.app import create_app
from shop.demo.factories import OrderFactory, UserFactory
from tests.harness.client import ApiClient
from tests.harness.live import LIMIT, until
from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.support.cases import CommittedApiTestCase, LiveServerTestCase, make_settings
from tests.support.operations import operations

WAITS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE datname = current_database() AND NOT granted
"""


class MarkedTest(CommittedApiTestCase):
    """Each operation, for a request that the server has marked."""

    def setUp(self):
        super().setUp()
        app = create_app(make_settings())
        self.addCleanup(create_app, make_settings())
        self.client = ApiClient(
            lambda environ, start_response: app(environ | {WAITED: True}, start_response),
        )

    def test_every_operation_is_refused_unseen_but_the_one_that_tells_whether_the_process_is_alive(self):
        user = UserFactory.create()
        order = OrderFactory.create(user=user)
        for operation in operations():
            with self.subTest(str(operation)), self.assertQueries(0):
                path = operation.path(user_id=str(user.id), order_id=str(order.id))
                response = self.client.request(operation.method, path, b"{", user=user, status="*")
                if path == "/livez":
                    self.assertEqual(200, response.status_int)
                else:
                    self.assertProblem(response, 503, "SERVICE_UNAVAILABLE", "The service is overloaded")
                    self.assertEqual("1", response.headers["Retry-After"])


class WaitingTest(LiveServerTestCase):
    """The real server, with one thread."""

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
        client.request("GET", path, headers={"Authorization": f"Bearer {self.connection.token}"})
        return client

    def test_those_behind_a_request_that_takes_too_long_get_a_503_and_then_it_serves_again(self):
        path = f"/users/{self.log_in_anew()}"
        with psycopg2.connect(self.database_url) as lock:
            lock.execute("LOCK TABLE users")
            slow = self.send(path)
            until(lambda: lock.execute(WAITS).fetchone() == (1,), "the first request holds the only thread")
            behind = [self.send(path) for _ in range(5)]
            alive = self.send("/livez")
            sent = time.monotonic()
            until(lambda: time.monotonic() > sent + self.LIMIT, "the others have waited for too long")
        self.assertEqual(200, slow.getresponse().status)
        self.assertEqual([503] * 5, [client.getresponse().status for client in behind])
        self.assertEqual(200, alive.getresponse().status)
        until(lambda: self.connection.get(path).status == 200, "it serves as before")
