"""What arrives over the wire in ways that no client library would send: raw bytes against the real server."""

import gzip
import json
import socket
from typing import ClassVar

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import User
from tests.harness.live import LIMIT
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import LiveServerTestCase


class WireTest(LiveServerTestCase):
    """Requests written by hand. Each is answered, with a 4xx where it is wrong, and never with a hang."""

    environment: ClassVar = {"SHOP_WORKERS": "1", "SHOP_MAX_BODY": "10000"}

    def send(self, request: bytes, *, and_end: bool = False) -> tuple[int, bytes]:
        """Send `request`, and the end of the stream if `and_end`; return the answer's status and body."""
        with socket.create_connection(("127.0.0.1", self.shop.port), LIMIT) as raw:
            raw.sendall(request)
            if and_end:
                raw.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def assertRefused(self, status: int, code: str | None, request: bytes) -> None:
        """Fail unless `request` gets this status, and this code where the service itself answers."""
        found, body = self.send(request)
        self.assertEqual(status, found, body)
        if code is not None:
            self.assertEqual(code, json.loads(body)["code"])

    def test_paths_have_one_spelling(self):
        for path in (
            "//users",
            "/users/",
            "/users//login",
            "/users/../orders",
            "/./users",
            "/%00",
            "/%zz",
            "/%ff",
            "/%2e%2e",
            "/users%5clogin",
            "/users/%2e/",
            "/livez%2e",
            "/livez%00",
            "/livez%20",
            "/livez;x",
            "/livez%3f",
        ):
            with self.subTest(path):
                self.assertRefused(
                    404, "NOT_FOUND", f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
                )

    def test_http_1_1_without_one_host_is_refused(self):
        for hosts in ([], [""], ["a", "b"], ["a", "a"], ["a, b"], ["a b"]):
            with self.subTest(hosts):
                lines = ["GET /livez HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
                request = "\r\n".join(lines)
                self.assertRefused(400, "BAD_REQUEST", request.encode())

    def test_http_1_0_without_a_host_is_served(self):
        self.assertEqual(200, self.send(b"GET /livez HTTP/1.0\r\n\r\n")[0])

    def test_a_compressed_body_is_refused(self):
        body = gzip.compress(b'{"email": "ada@example.com", "password": "secret1"}')
        answer = self.connection.request("POST", "/users/login", body, Content_Encoding="gzip")
        self.assertEqual((415, "UNSUPPORTED_MEDIA_TYPE"), (answer.status, answer.json["code"]))
        self.assertIn("Content-Encoding", answer.json["error"])

    def test_a_body_that_ends_early_is_answered(self):
        head = b"POST /users/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        for name, rest in {
            "fewer bytes than announced": b'Content-Length: 100\r\n\r\n{"email": "a',
            "all but the last byte": b"Content-Length: 3\r\n\r\n{}",
            "a chunk cut off": b'Transfer-Encoding: chunked\r\n\r\n20\r\n{"email": "a',
            "no last chunk": b'Transfer-Encoding: chunked\r\n\r\nc\r\n{"email": "a\r\n',
            "no chunk at all": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{",
        }.items():
            with self.subTest(name):
                status, _ = self.send(head + rest, and_end=True)
                self.assertEqual(400, status)

    def test_a_content_length_that_is_none_is_refused(self):
        for value in (b"-1", b"1e3", b"abc", b"5, 6", b"99999999999999999999999"):
            with self.subTest(value):
                status, _ = self.send(b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: " + value + b"\r\n\r\n{}")
                self.assertIn(status, (400, 413))

    def test_a_body_over_the_limit_is_refused_however_it_comes(self):
        head = b"POST /users HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        self.assertRefused(413, "PAYLOAD_TOO_LARGE", head + b"Content-Length: 10001\r\n\r\n" + b" " * 10001)
        chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
        self.assertRefused(
            413, "PAYLOAD_TOO_LARGE", head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n"
        )

    def test_a_coding_that_nobody_undoes_is_refused(self):
        for coding in (b"gzip, chunked", b"chunked, chunked", b"identity, chunked"):
            with self.subTest(coding):
                head = b"POST /users/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: "
                status, _ = self.send(head + coding + b"\r\n\r\n0\r\n\r\n")
                self.assertEqual(400, status)

    def test_the_name_of_a_coding_may_be_spelled_in_any_case(self):
        head = b"POST /users/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: "
        for coding in (b"chunked", b"Chunked", b"CHUNKED"):
            with self.subTest(coding):
                self.assertRefused(400, "MISSING_FIELDS", head + coding + b"\r\n\r\n0\r\n\r\n")

    def test_a_second_request_cannot_be_hidden_in_a_body(self):
        hidden = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        head = b"POST /users/login HTTP/1.1\r\nHost: x\r\n"
        for name, request in {
            "a length and chunks: chunks it is, and the connection ends": head
            + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            + hidden,
            "a length, and nobody reads the body": b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            + b"Content-Length: %d\r\n\r\n" % len(hidden)
            + hidden,
            "two lengths": head + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden,
            "a coding with a space": head + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden,
        }.items():
            with self.subTest(name):
                _, rest = self.send(request)
                self.assertNotIn(b"HTTP/1.1", rest, "there is one answer")
                self.assertNotIn(b"openapi", rest)

    def test_a_request_id_cannot_add_a_header(self):
        for value in (b"a\rSet-Cookie: x=1", b"a\n Set-Cookie: x=1", b"a\0"):
            with self.subTest(value), socket.create_connection(("127.0.0.1", self.shop.port), LIMIT) as raw:
                raw.sendall(
                    b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-ID: " + value + b"\r\n\r\n"
                )
                answer = b"".join(iter(lambda: raw.recv(65536), b""))
                self.assertEqual(b"400", answer.split()[1])
                self.assertNotIn(b"set-cookie", answer.lower())

    def test_characters_that_a_header_may_not_have_are_refused(self):
        for value in (b"a\0b", b"a\x01b", b"a\x7fb"):
            with self.subTest(value):
                status, _ = self.send(b"GET /livez HTTP/1.1\r\nHost: x\r\nIdempotency-Key: " + value + b"\r\n\r\n")
                self.assertEqual(400, status)

    def test_an_idempotency_key_that_is_sent_twice_is_refused(self):
        user_id = self.log_in_anew()
        body = exactjson.dumps(OrderFactory.body(User(id=user_id)))
        head = (
            "POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.connection.token}\r\nContent-Length: {len(body)}\r\n"
        ).encode()
        for keys in (b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n", b"Idempotency-Key: a\r\nIdempotency-Key: a\r\n"):
            self.assertRefused(400, "VALIDATION_ERROR", head + keys + b"\r\n" + body)
        self.assertRefused(400, "VALIDATION_ERROR", head + b"Idempotency-Key:\r\n\r\n" + body)
        self.assertRefused(400, "VALIDATION_ERROR", head + b"Idempotency-Key: caf\xe9\r\n\r\n" + body)
        self.assertEqual([], self.connection.get(f"/users/{user_id}/orders").json["orders"])
        self.assertEqual(201, self.send(head + b"Idempotency-Key: a\r\n\r\n" + body)[0])

    def test_what_is_not_http_does_not_stop_the_service(self):
        for noise in (b"\0" * 1000, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"POST / HTTP/9.9\r\n\r\n"):
            with (
                self.subTest(noise[:10]),
                socket.create_connection(("127.0.0.1", self.shop.port), LIMIT) as raw,
            ):
                raw.sendall(noise)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
                self.assertEqual(200, self.connection.get("/livez").status)

    def test_a_registration_in_bytes_of_latin_1_is_refused(self):
        body = json.dumps(UserFactory.body(name="Ren\u00e9e"), ensure_ascii=False).encode("latin-1")
        answer = self.connection.request("POST", "/users", body)
        self.assertEqual((400, "MALFORMED_JSON"), (answer.status, answer.json["code"]))
        self.assertIn("not UTF-8 at byte", answer.json["error"])

    def test_response_before_the_body_is_read_keeps_the_connection(self):
        user_id = self.log_in_anew()
        for body in (b" " * 100, b" " * 40_000):
            for method, path in (
                ("POST", "/nothing"),
                ("DELETE", "/users"),
                ("POST", "/orders"),
                ("GET", f"/users/{user_id}"),
            ):
                for _ in range(5):
                    with self.subTest(method=method, path=path, length=len(body)), self.connect() as other:
                        before = other.get("/livez") and other.local_address
                        refused = other.request(method, path, body, Content_Type="text/plain")
                        self.assertIn(refused.status, (401, 404, 405, 413))
                        self.assertEqual(200, other.get("/livez").status)
                        self.assertEqual(before, other.local_address, "it is still the same connection")
