"""The log and the metrics of the running service, and the secrets that must be in neither."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from typing import Any, ClassVar
from urllib.request import urlopen

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from shop import __version__
from shop.demo.factories import UserFactory
from tests.harness.live import LIMIT, Answer, free_port, until
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import SECRET_KEY, LiveServerTestCase

_ids = count(1)
DATABASE_PASSWORD = "only the database knows"
FORGED = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtYWxsb3J5In0.forgedsignature"
# Milliseconds; a statement that waits for a lock takes longer, and no other does, also on a busy machine.
SLOW = 200


class ObservationTestCase(LiveServerTestCase):
    """A service with two workers that logs at the lowest level."""

    environment: ClassVar = {
        "SHOP_WORKERS": "2",
        "SHOP_THREADS": "4",
        "SHOP_LOG_LEVEL": "debug",
        "SHOP_SLOW_QUERY_MS": str(SLOW),
        "SHOP_TRUSTED_PROXIES": "127.0.0.1",
    }

    @classmethod
    def setUpClass(cls) -> None:
        cls.metrics_port = free_port()
        cls.environment = cls.environment | {"SHOP_METRICS_PORT": str(cls.metrics_port)}
        super().setUpClass()

    # -- the log ------------------------------------------------------------------------------------------------------

    def lines(self, **wanted: object) -> list[dict[str, Any]]:
        """Return the log lines so far with these fields. Each line must be JSON."""
        found = map(json.loads, list(self.shop.stderr))
        return [line for line in found if line.items() >= wanted.items()]

    def send_and_find(self, send: Callable[..., Answer]) -> tuple[Answer, dict[str, Any]]:
        """Send a request with a new id; return its answer and its log line."""
        request_id = f"test.{next(_ids)}"
        answer = send(X_Request_ID=request_id)
        self.assertEqual(request_id, answer.headers["X-Request-ID"])
        until(lambda: self.lines(message="request", request_id=request_id), "the request is in the log")
        (line,) = self.lines(message="request", request_id=request_id)
        return answer, line

    # -- the metrics --------------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name and labels."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=LIMIT) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    # -- trouble ------------------------------------------------------------------------------------------------------

    @contextmanager
    def other_connection(self) -> Iterator[Any]:
        """Yield a cursor on another connection to the service's database."""
        with closing(psycopg2.connect(self.database_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor

    @contextmanager
    def waiting(self, send: Callable[[], Answer]) -> Iterator[None]:
        """Send a request that needs the table of users, and keep it waiting for the duration of the block."""
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        with ThreadPoolExecutor(1) as thread, self.other_connection() as cursor, self.other_connection() as watcher:
            cursor.execute("BEGIN; LOCK TABLE users")
            answer = thread.submit(send)
            try:
                until(lambda: watcher.execute(waiting) or watcher.fetchall(), "the request waits")
                started = time.monotonic()
                until(lambda: time.monotonic() - started > SLOW / 1000, "it has waited for long")
                yield
            finally:
                cursor.execute("ROLLBACK")
                self.assertLess(answer.result(LIMIT).status, 500)


class LogTest(ObservationTestCase):
    """Log lines."""

    def test_a_request_is_one_line_with_all_its_fields(self):
        user_id = self.log_in_anew()
        path = f"/users/{user_id}/orders?limit=7&status=shipped"
        _, line = self.send_and_find(lambda **headers: self.connection.request("GET", path, **headers))
        self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        self.assertGreater(line.pop("ms"), line["database_ms"])
        self.assertGreater(line.pop("database_ms"), 0)
        self.assertEqual(f"test.{next(_ids) - 1}", line.pop("request_id"))
        expected = {
            "level": "info",
            "message": "request",
            "method": "GET",
            "route": "/users/{user_id}/orders",
            "status": 200,
            "code": None,
            "user_id": user_id,
            "client": "127.0.0.1",
            "statements": 1,
        }
        self.assertEqual(expected, line)

    def test_a_refusal_has_its_code_and_an_unknown_path_no_route(self):
        for method, path, wanted in (
            ("GET", "/nothing/secret", {"status": 404, "code": "NOT_FOUND", "route": None, "statements": 0}),
            ("GET", "/orders/1", {"status": 401, "code": "UNAUTHORIZED", "route": "/orders/{order_id}"}),
            ("BREW", "/users", {"status": 400, "code": "BAD_REQUEST"}),
            ("WEBSOCKET", "/users", {"status": 400, "code": "BAD_REQUEST", "ms": 0.0}),
        ):
            with self.subTest(method=method, path=path):
                _, line = self.send_and_find(
                    lambda m=method, p=path, **headers: self.connection.request(m, p, **headers)
                )
                self.assertLessEqual(wanted.items(), line.items())

    def test_a_malformed_request_id_is_replaced_in_the_log_too(self):
        for bad in ("a b", "x" * 129, "{}", 'a"b', "caf\xe9"):
            with self.subTest(bad):
                made = self.connection.request("GET", "/livez", X_Request_ID=bad).headers["X-Request-ID"]
                self.assertRegex(made, r"^[0-9a-f-]{36}$")
                until(lambda made=made: self.lines(request_id=made), "it is in the log under the id that was made")
        self.assertNotIn("x" * 129, "\n".join(self.shop.stderr))

    def test_the_client_is_the_address_that_a_trusted_proxy_names(self):
        forged = {"X_Forwarded_For": "198.51.100.9, 203.0.113.5", "Forwarded": "for=198.51.100.8"}
        _, line = self.send_and_find(lambda **headers: self.connection.request("GET", "/livez", **headers, **forged))
        self.assertEqual("203.0.113.5", line["client"])

    def test_a_slow_statement_is_logged_without_its_values(self):
        person = UserFactory.body(email="slow@example.com")
        with self.waiting(lambda: self.connect().post("/users", person, X_Request_ID="slow")):
            self.assertEqual([], self.lines(request_id="slow"))
        until(lambda: self.lines(request_id="slow", message="request"), "both lines are there")
        (line,) = self.lines(request_id="slow", message="slow statement")
        self.assertEqual(("warning", True), (line["level"], line["database_ms"] >= SLOW))
        self.assertRegex(line["sql"], r'^INSERT INTO "users" .* VALUES \(%s(, %s)+\) ON CONFLICT')

    def test_start_and_workers_are_logged_in_the_same_format(self):
        started = [line["message"] for line in self.lines(logger="_granian") if "Spawning" in line["message"]]
        self.assertRegex("\n".join(started), r"Spawning worker-1 with PID: \d+\nSpawning worker-2 with PID: \d+")
        self.assertEqual([], [line for line in self.lines(level="warning") if line["logger"] == "_granian"])


class SecretsTest(ObservationTestCase):
    """The secrets of clients and operators, at the lowest log level."""

    # The driver uses it if the URL has no password. A server that trusts local connections does not ask for it.
    environment: ClassVar = ObservationTestCase.environment | {"PGPASSWORD": DATABASE_PASSWORD}

    def test_no_secret_is_in_the_output_whatever_happens(self):
        person = UserFactory.body(name="Mallory Secretive", email="mallory.secretive@example.com", password="hush hush")
        session = self.send_all_kinds(person)
        secrets = {
            "password": person["password"],
            "another password": "a wrong one, hush",
            "token": session["token"],
            "signature": session["token"].rpartition(".")[2],
            "forged token": FORGED,
            "key": SECRET_KEY,
            "database password": parse_dsn(self.database_url).get("password", DATABASE_PASSWORD),
            "database password of the environment": DATABASE_PASSWORD,
            "e-mail": "mallory.secretive",
            "name": "Secretive",
            "hash": "$argon2",
            "street": "Hidden Lane",
            "idempotency key": "my own key",
            "query": "no-such-status",
            "path": "/secret/path",
            "header": "my cookie",
        }
        output = "\n".join(self.shop.stdout + self.shop.stderr)
        for name, secret in secrets.items():
            with self.subTest(name):
                self.assertNotIn(secret, output)
        for line in self.shop.stderr:
            self.assertIsInstance(json.loads(line), dict)

    def send_all_kinds(self, person: dict[str, Any]) -> dict[str, Any]:
        """Send valid and invalid requests of all kinds; return the session."""
        send = self.connection
        self.assertEqual(201, send.post("/users", person).status)
        login = {"email": person["email"], "password": person["password"]}
        session = send.post("/users/login", login).json
        self.assertEqual(401, send.post("/users/login", login | {"password": "a wrong one, hush"}).status)
        self.assertEqual(409, send.post("/users", person).status)
        self.assertEqual(400, send.request("POST", "/users", json.dumps(person)[:-1].encode()).status)
        self.assertEqual(400, send.post("/users", person | {"password": "hush hush" * 50, "more": person}).status)
        self.assertEqual(401, send.request("GET", "/orders/1", Authorization=f"Bearer {FORGED}").status)
        self.assertEqual(404, send.request("GET", "/secret/path?token=hush", Cookie="my cookie").status)
        send.token = session["token"]
        items = [{"productId": "tea", "name": "Tea", "price": 29.99, "quantity": 2}]
        order = {"userId": session["id"], "items": items, "shippingAddress": {"street": "12 Hidden Lane"}}
        self.assertEqual(201, send.post("/orders", order, Idempotency_Key="my-own-key").status)
        self.assertEqual(400, send.post("/orders", order, Idempotency_Key="my own key").status)
        self.assertEqual(400, send.get(f"/users/{session['id']}/orders?status=no-such-status").status)
        self.database_refuses(person | {"email": f"2.{person['email']}"})
        self.database_is_out(login)
        return session

    def database_refuses(self, person: dict[str, Any]) -> None:
        """Cause a 500 by a constraint that the service does not know. The driver's message contains the whole row."""
        with self.other_connection() as cursor:
            cursor.execute("ALTER TABLE users ADD CONSTRAINT unforeseen CHECK (email NOT LIKE '2.%') NOT VALID")
            self.assertEqual(500, self.connection.post("/users", person, X_Request_ID="refused").status)
            cursor.execute("ALTER TABLE users DROP CONSTRAINT unforeseen")
        until(lambda: self.lines(request_id="refused", message="request"), "it is in the log")
        self.assertEqual(["error"], [line["level"] for line in self.lines(request_id="refused", message="request")])
        (line,) = self.lines(request_id="refused", logger="shop.api.problems")
        self.assertIn('violates check constraint "unforeseen" (SQLSTATE 23514)', line["exception"])

    def database_is_out(self, login: dict[str, Any]) -> None:
        """Close the database's connections, and refuse new ones."""
        name = parse_dsn(self.database_url)["dbname"]
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        with closing(psycopg2.connect(make_dsn(self.database_url, dbname="postgres"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
                try:
                    cursor.execute(end, (name,))
                    refused = self.connection.post("/users/login", login, X_Request_ID="out")
                finally:
                    cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        self.assertEqual(503, refused.status)
        until(lambda: self.lines(request_id="out", message="request"), "it is in the log")
        self.assertEqual(["warning"], [line["level"] for line in self.lines(request_id="out", message="request")])
        self.assertEqual(200, self.connection.post("/users/login", login).status)


class MetricsTest(ObservationTestCase):
    """Metrics over several workers."""

    SERVED = 'shop_http_request_duration_seconds_count{method="GET",route="/users/{user_id}",status="200"}'

    def test_requests_are_counted_once_also_if_a_worker_was_killed(self):
        user_id = self.log_in_anew()
        before = self.metrics()
        self.read(user_id, 40)
        self.assertEqual(40, self.metrics()[self.SERVED] - before.get(self.SERVED, 0))
        killed = self.shop.workers()[0]
        killed.kill()
        until(lambda: self.metrics()["shop_worker_starts_total"] == 3, "another worker has started")
        until(lambda: self.lines(message="Unexpected exit from worker-1") and self.two_serve(), "both serve")
        self.assertEqual(40, self.metrics()[self.SERVED] - before.get(self.SERVED, 0), "what it had counted is kept")
        self.read(user_id, 40)
        after = self.metrics()
        self.assertEqual(80, after[self.SERVED] - before.get(self.SERVED, 0))
        self.assertEqual(2, after["shop_workers"])
        self.assertEqual(1, after[f'shop_info{{version="{__version__}"}}'])
        self.assertGreater(after["process_resident_memory_bytes"], 0)

    def two_serve(self) -> bool:
        return len(self.shop.workers()) == 2 and self.metrics()["shop_workers"] == 2

    def read(self, user_id: str, times: int) -> None:
        """Read a user several times on new connections, so that any worker may serve them."""

        def read(_: int) -> None:
            with self.connect() as connection:
                connection.token = self.connection.token
                self.assertEqual(200, connection.get(f"/users/{user_id}").status)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(read, range(times)))

    def test_gauges_show_a_stuck_request_while_it_is_stuck(self):
        person = UserFactory.body(email="stuck@example.com")
        slow = self.metrics()["shop_slow_statements_total"]
        with self.waiting(lambda: self.connect().post("/users", person)):
            until(lambda: self.metrics()["shop_busy_threads"] == 1, "its thread is busy")
            until(lambda: self.metrics()["shop_database_connections"] >= 1, "its connection is open")
            self.assertEqual(1, self.metrics()["shop_hashing_requests"], "a registration counts to its end")
        until(lambda: self.metrics()["shop_busy_threads"] == 0, "it has ended")
        self.assertEqual(slow + 1, self.metrics()["shop_slow_statements_total"])

    def test_errors_are_counted_by_code_without_labels_from_clients(self):
        for method, path in (("BREW", "/made/up"), ("BREW", "/users"), ("GET", "/made/up")):
            self.connection.request(method, path)
        counted = self.metrics()
        self.assertGreaterEqual(counted['shop_problems_total{code="NOT_FOUND"}'], 1)
        self.assertGreaterEqual(counted['shop_problems_total{code="BAD_REQUEST"}'], 1)
        self.assertEqual([], [name for name in counted if re.search("BREW|made", name)])

    def test_metrics_are_not_served_on_the_port_of_the_api(self):
        self.assertEqual(404, self.connection.get("/metrics").status)
