"""The real server as a connection meets it: HEAD, keep-alive, bodies in chunks, and the limit of a body."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPResponse
from typing import ClassVar
from uuid import uuid4

import psycopg2

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import User
from tests.harness.live import LIMIT, Answer
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import LiveServerTestCase


class TcpTest(LiveServerTestCase):
    """What only a connection shows, on a server that was given its database and small limits."""

    MAX_BODY = 1000
    # What follows the limit would be a request of its own, were it taken for one.
    TOO_LARGE = b" " * MAX_BODY + b"GET /readyz HTTP/1.1\r\nHost: smuggled\r\n\r\n"

    ada: ClassVar[User]
    environment: ClassVar = {"SHOP_MAX_BODY": str(MAX_BODY)}

    @classmethod
    def setUpTestData(cls) -> None:
        cls.ada = UserFactory.create(name="Ada Lovelace")

    def test_the_server_knows_the_rows_of_the_class(self) -> None:
        login = {"email": self.ada.email, "password": self.ada.password}
        answer = self.connection.post("/users/login", login)
        self.assertEqual((200, "Ada Lovelace"), (answer.status, answer.json["name"]))

    def test_the_database_that_it_was_given_is_the_one_that_it_uses(self) -> None:
        self.assertEqual([], self.shop.databases(), "it started none of its own")
        user_id = self.log_in_anew()
        with closing(psycopg2.connect(self.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM users WHERE id = %s", (user_id,))
            self.assertEqual((1,), cursor.fetchone())

    def test_head_announces_the_length_of_the_body_and_sends_none(self) -> None:
        user_id = self.log_in_anew()
        for path in ("/livez", f"/users/{user_id}"):
            with self.subTest(path=path):
                got, headed = self.connection.get(path), self.connection.request("HEAD", path)
                self.assertEqual((200, str(len(got.content))), (headed.status, headed.headers["Content-Length"]))
                # A body would stand before the next answer on this connection, which could not be read then.
                self.assertEqual(got.json, self.connection.get(path).json)

    def test_a_connection_serves_one_request_after_the_other(self) -> None:
        self.connection.get("/livez")
        address = self.connection.local_address
        user_id = self.log_in_anew()
        order = exactjson.dumps(OrderFactory.body(User(id=user_id), items=OrderFactory.items(1)))
        self.assertEqual(201, self.connection.request("POST", "/orders", order).status)
        self.assertEqual(404, self.connection.get("/nowhere").status)
        self.assertEqual(address, self.connection.local_address)

    def test_a_body_in_chunks_is_read(self) -> None:
        account = UserFactory.body(email=f"{uuid4()}@example.com")
        answer = self.connection.request("POST", "/users", pieces(json.dumps(account).encode()))
        self.assertEqual((201, account["email"]), (answer.status, answer.json["email"]))

    def test_after_a_chunked_body_over_the_limit_the_next_request_works(self) -> None:
        size = len(self.TOO_LARGE)
        self.assertTooLarge(b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (size, self.TOO_LARGE))

    def test_after_a_body_over_the_limit_the_next_request_works(self) -> None:
        self.assertTooLarge(b"Content-Length: %d" % len(self.TOO_LARGE), self.TOO_LARGE)

    def test_a_body_of_exactly_the_limit_is_read(self) -> None:
        text = b'{"email": "nobody@example.com", "password": "correct horse"}'
        answer = self.connection.request("POST", "/users/login", text.ljust(self.MAX_BODY))
        self.assertEqual((401, "INVALID_CREDENTIALS"), (answer.status, answer.json["code"]))

    def assertTooLarge(self, header: bytes, body: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.shop.port), LIMIT) as client:
            # Head and body leave in one piece. While a refused body is still on its way, the server may hang up.
            head = b"POST /users HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n" + header
            refused = self.exchange(client, head + b"\r\n\r\n" + body)
            self.assertEqual((413, "PAYLOAD_TOO_LARGE"), (refused.status, refused.json["code"]))
            next_one = self.exchange(client, b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n")
            self.assertEqual((200, {"status": "alive"}), (next_one.status, next_one.json))

    @staticmethod
    def exchange(client: socket.socket, request: bytes) -> Answer:
        client.sendall(request)
        with closing(HTTPResponse(client)) as response:
            response.begin()
            return Answer(response.status, response.headers, response.read())


def pieces(body: bytes) -> Iterator[bytes]:
    """Cut `body` into chunks of a few bytes."""
    return (body[start : start + 7] for start in range(0, len(body), 7))
