"""Clients that send their bodies slowly, hang up in them, or ask first: what the service does without a front.

It does not defend itself against many of them; `scripts/test-image` shows that the front does.
"""

import json
import socket
import struct
import time
from typing import ClassVar

from shop.demo.factories import UserFactory
from tests.harness.live import LIMIT
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import LiveServerTestCase


class SlowClientTest(LiveServerTestCase):
    """The real server, with few threads."""

    environment: ClassVar[dict[str, str]] = {"SHOP_WORKERS": "1", "SHOP_THREADS": "4"}

    def client(self, *head: str) -> socket.socket:
        """Return the connection of a client that has sent a request of these lines, and nothing of its body."""
        client = self.enterContext(socket.create_connection(("127.0.0.1", self.shop.port), LIMIT))
        client.sendall("\r\n".join([*head, "Host: shop", "", ""]).encode())
        return client

    def test_a_body_that_arrives_piece_by_piece_is_read(self):
        body = json.dumps(UserFactory.body(email="slow@example.com")).encode()

        def pieces():
            for start in range(0, len(body), 20):
                yield body[start : start + 20]
                time.sleep(0.02)  # The test is about a slow line.

        self.assertEqual(201, self.connection.request("POST", "/users", pieces()).status)

    def test_a_client_that_hangs_up_in_its_body_holds_no_thread(self):
        for _ in range(20):
            client = self.client("POST /users HTTP/1.1", "Content-Type: application/json", "Content-Length: 100")
            client.sendall(b"{")
            # A reset instead of an orderly end.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        self.assertEqual(200, self.connection.get("/livez").status)
        self.assertEqual([], [line for line in self.shop.stderr if "Traceback" in line])

    def test_a_client_that_expects_100_continue_is_refused_without_its_body(self):
        for _ in range(10):  # More than there are threads.
            client = self.client("POST /users HTTP/1.1", "Content-Length: 5000000", "Expect: 100-continue")
            self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 413"))
