"""Clients that announce a body and keep it back: they are told off in time, and everybody else is served meanwhile.

Some of it is shown in this process, with a server's part played by a few lines, and the rest on the real one.
"""

import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import ClassVar
from unittest import mock

from shop.api.slow_bodies import BREAK_OFF, BodyTimeLimit
from shop.app import create_app
from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order
from tests.harness.client import ApiClient
from tests.harness.live import LIMIT, until
from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.support.cases import CommittedApiTestCase, LiveServerTestCase, make_settings
from tests.support.faults import Load
from tests.support.operations import operations

LENGTH = 100
HEAD = b"POST /users HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{" % LENGTH


class HeldBack:
    """The body of a client that sends no more of it: a read ends when the server breaks the request off.

    Attributes:
        answers: What the server was told to answer.
    """

    def __init__(self):
        self.answers = []
        self._broken_off = threading.Event()

    def read(self, _size):
        """Wait, as a server does."""
        if not self._broken_off.wait(LIMIT):
            raise AssertionError("the read was never broken off")
        return b""

    def break_off(self, status, headers, body):
        """Do what `shop serve` has for this."""
        self.answers.append((status, dict(headers), json.loads(body)))
        self._broken_off.set()


class HeldBackTest(CommittedApiTestCase):
    """Each operation, with a body that does not come."""

    def setUp(self):
        super().setUp()
        self.user = UserFactory.create()
        self.order = OrderFactory.create(user=self.user)
        short = mock.patch("shop.app.BodyTimeLimit", lambda *, limit, places: BodyTimeLimit(limit=0.01, places=places))
        with short:
            app = create_app(make_settings())
        self.addCleanup(create_app, make_settings())

        def serve(environ, start_response):
            held_back = self.held_back = HeldBack()
            servers_part = {"wsgi.input": held_back, "wsgi.input_terminated": True, BREAK_OFF: held_back.break_off}
            return app(environ | servers_part, start_response)

        self.client = ApiClient(serve)

    def test_every_operation_answers_408_when_the_body_does_not_come(self):
        orders = Order.select().count()
        for operation in operations():
            with self.subTest(str(operation)):
                path = operation.path(user_id=str(self.user.id), order_id=str(self.order.id))
                response = self.client.request(
                    operation.method, path, b"{", user=self.user, status=408, Content_Length=str(LENGTH)
                )
                self.assertProblem(response, 408, "REQUEST_TIMEOUT", "The body did not arrive in time")
                ((status, headers, problem),) = self.held_back.answers
                self.assertEqual((408, "close"), (status, headers["Connection"]))
                self.assertEqual(response.json, problem, "the client gets what the log has")
                self.assertEqual(response.headers["X-Request-ID"], headers["X-Request-ID"])
        self.assertEqual(orders, Order.select().count())

    def test_a_refused_request_does_not_wait_for_its_body_either(self):
        response = self.client.request("POST", "/orders", b"{", status=408, Content_Length=str(LENGTH))
        self.assertProblem(response, 408, "REQUEST_TIMEOUT")


class SlowClientTest(LiveServerTestCase):
    """The real server."""

    LIMIT = 1
    environment: ClassVar[dict[str, str]] = {"SHOP_BODY_TIMEOUT": str(LIMIT), "SHOP_THREADS": "4"}

    def slow_client(self) -> socket.socket:
        """Return the connection of a client that has announced a body and sent its first byte."""
        client = socket.create_connection(("127.0.0.1", self.shop.port), LIMIT)
        client.sendall(HEAD)
        return client

    def tearDown(self) -> None:
        self.assertEqual(200, self.connection.get("/readyz").status, "it still serves")

    def test_a_body_that_stops_is_answered_in_time_and_the_connection_closed(self):
        with self.slow_client() as client:
            began = time.monotonic()
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        self.assertLess(abs(time.monotonic() - began - self.LIMIT), 1)
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), head)
        self.assertEqual("REQUEST_TIMEOUT", json.loads(body)["code"])

    def test_a_body_that_dribbles_has_the_same_limit_as_a_whole(self):
        with self.slow_client() as client:
            client.settimeout(0.1)
            began, answer = time.monotonic(), b""
            while not answer and time.monotonic() < began + LIMIT:
                client.sendall(b" ")
                try:
                    answer = client.recv(4096)
                except TimeoutError:
                    continue
        self.assertTrue(answer.startswith(b"HTTP/1.1 408"), answer)
        self.assertLess(time.monotonic() - began, self.LIMIT + 1)

    def test_a_body_that_takes_its_time_within_the_limit_is_read(self):
        body = json.dumps(UserFactory.body(email="slow@example.com")).encode()

        def pieces():
            for start in range(0, len(body), 20):
                yield body[start : start + 20]
                time.sleep(0.02)  # A slow line is what this is about.

        self.assertEqual(201, self.connection.request("POST", "/users", pieces()).status)

    def test_a_client_that_hangs_up_in_its_body_does_nothing_and_holds_nothing(self):
        for _ in range(20):
            client = self.slow_client()
            # A reset, not an orderly end.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        began = time.monotonic()
        self.assertEqual(200, self.connection.get("/livez").status)
        self.assertLess(time.monotonic() - began, self.LIMIT)
        self.assertEqual([], [line for line in self.shop.stderr if "Traceback" in line])

    def test_a_hundred_clients_that_dribble_keep_eight_others_from_nothing(self):
        with ExitStack() as stack:
            slow = [stack.enter_context(self.slow_client()) for _ in range(100)]
            with Load(lambda: self.shop.url) as load:
                until(lambda: not self.dribble(slow), "all of them have been told off")
                load.until_served(100)
        self.assertEqual([], [outcome for outcome in load.outcomes if not outcome.is_served])
        self.assertEqual({"GET", "POST"}, {outcome.request for outcome in load.outcomes})
        self.assertLess(max(outcome.seconds for outcome in load.outcomes), 5)

    def test_what_is_refused_unseen_holds_no_thread_for_longer_either(self):
        started = time.monotonic()
        with ExitStack() as stack:
            slow = []
            for head in (
                "POST /users/ HTTP/1.1\r\nContent-Length: 50",
                "POST /users HTTP/1.1\r\nContent-Length: 5000000",
                "POST /users HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
                "WEBSOCKET /users HTTP/1.1\r\nContent-Length: 50",
            ):
                for _ in range(10):
                    slow.append(stack.enter_context(socket.create_connection(("127.0.0.1", self.shop.port), LIMIT)))
                    slow[-1].sendall(f"{head}\r\nHost: shop\r\n\r\n".encode())
            for _ in range(10):
                self.assertEqual(200, self.connection.get("/livez").status)
            statuses = {client.recv(4096)[9:12] for client in slow}
        self.assertLess(time.monotonic() - started, self.LIMIT + 5)
        self.assertEqual({b"400", b"408"}, statuses)

    def test_who_asks_whether_to_send_a_body_is_told_without_it(self):
        with socket.create_connection(("127.0.0.1", self.shop.port), LIMIT) as client:
            head = b"POST /users HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
            client.sendall(head)
            self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 413"))

    def test_clients_that_hold_their_log_ins_back_keep_nobody_from_logging_in(self):
        account = {"email": "ada@example.com", "password": "correct horse"}
        self.assertEqual(201, self.connection.post("/users", account | {"name": "Ada"}).status)
        over = threading.Event()
        told_off = []

        def come_again() -> None:
            while not over.is_set():
                with suppress(OSError), self.slow_client() as client:
                    told_off.append(client.recv(100))

        # Of as many as there are threads, half are always waited for.
        with ThreadPoolExecutor(8) as clients:
            for _ in range(8):
                clients.submit(come_again)
            try:
                until(lambda: len(told_off) > 8, "they have come again")
                answers = [self.connection.post("/users/login", account) for _ in range(20)]
            finally:
                over.set()
        self.assertEqual([200] * 20, [answer.status for answer in answers])

    @staticmethod
    def dribble(clients: list[socket.socket]) -> int:
        """Send a byte from each client, and return for how many the server still waits."""
        waiting = 0
        for client in clients:
            try:
                client.sendall(b" ")
                waiting += 1
            except OSError:
                continue
        return waiting
