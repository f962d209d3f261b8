"""The observer of requests: log lines, counts and slow statements."""

import json
import logging
import os
from unittest import mock

from shop.app import create_app
from shop.demo.factories import UserFactory
from shop.serving.logs import LogWriter, current_request
from shop.serving.metrics import Metrics
from shop.serving.observer import RequestObserver
from shop.serving.proxies import Proxies
from shop.storage.database import database
from tests.harness.client import ApiClient
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, make_settings


class ObserverTest(ApiTestCase):
    """A service with an observer in the process of the tests."""

    not_in_parity_because = "it is about logs and metrics, whichever way tests are isolated"

    def setUp(self):
        super().setUp()
        self.reading, writing = os.pipe()
        for descriptor in (self.reading, writing):
            self.addCleanup(os.close, descriptor)
        for hooks in (database.query_hooks, database.connection_hooks):
            self.addCleanup(hooks.__setitem__, slice(None), list(hooks))
        self.metrics = Metrics()
        self.writer = LogWriter(as_text=False, level=logging.INFO, descriptor=writing)
        # A microsecond: every statement is slow.
        observer = RequestObserver(self.writer, self.metrics, Proxies(()), 0.001)
        settings = make_settings(threads=2)
        self.client = ApiClient(create_app(settings, observer=observer))
        self.registry = self.metrics.registry

    def test_requests_statements_and_errors_are_logged_and_counted(self):
        with self.assertLogs("shop.serving.observer", "WARNING") as logs:
            user = UserFactory.create()
            self.client.get(f"/users/{user.id}", user=user)
            self.client.get("/nothing", status=404)
            self.client.post("/users", UserFactory.body())
        self.assertIn("slow statement", logs.output[0])
        lines = [json.loads(line) for line in os.read(self.reading, 1 << 16).splitlines()]
        self.assertEqual(
            [(200, 1, str(user.id)), (404, 0, None), (201, 1, None)],
            [(line["status"], line["statements"], line["user_id"]) for line in lines],
        )
        labels = {"method": "GET", "route": "/users/{user_id}", "status": "200"}
        served = self.registry.get_sample_value("shop_http_request_duration_seconds_count", labels)
        self.assertEqual(1, served)
        self.assertEqual(1, self.registry.get_sample_value("shop_problems_total", {"code": "NOT_FOUND"}))
        self.metrics.refresh()
        for gauge in ("shop_busy_threads", "shop_hashing_requests"):
            self.assertEqual(0, self.registry.get_sample_value(gauge), "all requests have ended")
        self.assertIsNone(current_request.request_id, "the next log line of this thread belongs to no request")

    def test_without_a_limit_no_statement_is_slow(self):
        observer = RequestObserver(self.writer, self.metrics, Proxies(()), 0)
        with self.assertNoLogs("shop.serving.observer"):
            observer._count_statement(mock.Mock(duration=3600.0, sql="SELECT 1"))
        self.assertEqual(0, self.registry.get_sample_value("shop_slow_statements_total"))
