"""HTTP rules for every path: problems, methods, body limits, media types, request ids, health."""

import gzip
import json
import warnings
from datetime import timedelta
from typing import Any
from unittest import mock

from peewee import InternalError, OperationalError

from shop.api import middleware
from shop.api.middleware import RequestChecks
from shop.app import create_app, utc_now
from shop.demo.factories import UserFactory
from shop.domain.models import User
from shop.storage.database import Database
from tests.harness.client import ApiClient
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, make_client, make_settings
from tests.support.operations import Operation, example, operations

NOW = utc_now().replace(microsecond=0)


def client_of_server(server: dict[str, Any], **settings: Any) -> ApiClient:
    """Return a client of an application whose server adds `server` to each WSGI environment.

    Its clock always shows `NOW`.
    """
    app = create_app(make_settings(**settings), clock=lambda: NOW)

    def serve(environ, start_response):
        return app(environ | server, start_response)

    return ApiClient(serve)


class EveryOperationTest(ApiTestCase):
    """Errors that any request may get: every operation answers them as documented."""

    @classmethod
    def setUpTestData(cls):
        cls.ada = UserFactory.create()

    def send(self, operation: Operation, status: int, **request: Any):
        """Send a valid request of `operation`, changed by `request`, and return the response."""
        document = operation.declared.body and example(operation.declared.body)
        body = {"body": json.dumps(document).encode() if document else b""} | request
        path = operation.path(user_id=str(self.ada.id), order_id=str(self.ada.id))
        client = body.pop("client", self.client)
        return client.request(operation.method, path, user=self.ada, status=status, **body)

    def test_content_length_that_is_not_a_number_is_400(self):
        for operation in operations():
            # WebTest would not send it, and granian refuses it; another server may pass it on.
            with self.subTest(str(operation)), mock.patch("webtest.lint.check_environ"):
                self.assertProblem(self.send(operation, 400, Content_Length="many"), 400, "BAD_REQUEST")

    def test_too_long_body_is_413_even_if_no_body_is_expected(self):
        client = make_client(max_body=10)
        for operation in operations():
            with self.subTest(str(operation)):
                response = self.send(operation, 413, client=client, body=b'"0123456789"')
                self.assertProblem(response, 413, "PAYLOAD_TOO_LARGE")

    def test_body_of_another_media_type_is_415(self):
        for operation in operations():
            if operation.declared.body:
                with self.subTest(str(operation)):
                    response = self.send(operation, 415, content_type="text/plain")
                    self.assertProblem(response, 415, "UNSUPPORTED_MEDIA_TYPE")

    def test_compressed_body_is_415_with_accept_encoding(self):
        compressed = gzip.compress(b'{"email": "ada@example.com"}')
        for operation in operations():
            if operation.declared.body:
                for coding in ("gzip", "br", "x-unknown", "identity, gzip", "GZIP"):
                    with self.subTest(str(operation), coding=coding):
                        response = self.send(operation, 415, body=compressed, Content_Encoding=coding)
                        sentence = "Content-Encoding must be absent or identity"
                        self.assertProblem(response, 415, "UNSUPPORTED_MEDIA_TYPE", sentence)
                        self.assertEqual("identity", response.headers["Accept-Encoding"])

    def test_request_without_exactly_one_valid_host_is_400(self):
        for host in ("", "a.example,b.example", "a b", "user@a.example", "a.example/users", "[::1", "x" * 1000):
            client = client_of_server({"SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": host})
            for operation in operations():
                with self.subTest(str(operation), host=host[:20]):
                    response = self.send(operation, 400, client=client)
                    sentence = "The request must have exactly one valid Host header"
                    self.assertProblem(response, 400, "BAD_REQUEST", sentence)

    def test_request_queued_too_long_is_503_except_livez(self):
        client = client_of_server({"HTTP_X_REQUEST_START": waited(10.1)}, queue_timeout=10)
        for operation in operations():
            with self.subTest(str(operation)), self.assertQueries(0):
                if operation.template == "/livez":
                    self.send(operation, 200, client=client)
                    continue
                response = self.send(operation, 503, client=client, body=b"{")
                self.assertProblem(response, 503, "SERVICE_UNAVAILABLE", "The service is overloaded")
                self.assertEqual("1", response.headers["Retry-After"])

    def test_every_response_closes_its_connection_while_draining(self):
        client = ApiClient(create_app(make_settings(), is_draining=lambda: True))
        for operation in operations():
            with self.subTest(str(operation)):
                response = self.send(operation, "*", client=client)
                self.assertEqual("close", response.headers["Connection"])
                self.assertNotIn("Connection", self.send(operation, "*").headers)

    def test_outage_is_503_with_retry_after_and_a_bug_is_500(self):
        for failure, status, code in (
            (OperationalError("connection refused"), 503, "SERVICE_UNAVAILABLE"),
            (RuntimeError("a mistake"), 500, "INTERNAL_ERROR"),
        ):

            def fail(*_: object, failure: Exception = failure) -> None:
                raise failure

            # Every request calls this method, even one that needs no database.
            with mock.patch.object(RequestChecks, "process_request", fail):
                client = make_client()
            for operation in operations():
                with self.subTest(str(operation), status=status), self.assertLogs("shop.api.problems"):
                    response = self.send(operation, status, client=client)
                    self.assertProblem(response, status, code)
                    self.assertEqual("1" if status == 503 else None, response.headers.get("Retry-After"))

    def test_unknown_asset_is_404(self):
        self.assertProblem(self.client.get("/docs/nothing.js", status=404), 404, "NOT_FOUND")


def waited(seconds: float) -> str:
    """Return the ``X-Request-Start`` of a request that the front received `seconds` before `NOW`."""
    return f"t={(NOW - timedelta(seconds=seconds)).timestamp():.3f}"


class WaitTest(ApiTestCase):
    """``X-Request-Start``, which the front sets."""

    def status(self, sent: str) -> int:
        return client_of_server({"HTTP_X_REQUEST_START": sent}, queue_timeout=10).get("/readyz", status="*").status_int

    def test_request_within_the_queue_timeout_is_served(self):
        self.assertEqual([200, 200, 503], [self.status(waited(seconds)) for seconds in (0, 10, 10.001)])

    def test_start_in_whole_seconds_is_accepted(self):
        self.assertEqual(503, self.status(f"t={NOW.timestamp() - 11:.0f}"))

    def test_start_in_the_future_is_ignored(self):
        self.assertEqual([200, 200], [self.status(waited(-seconds)) for seconds in (1, 10**9)])

    def test_malformed_start_is_ignored(self):
        for sent in ("", "t=", "1", "t=-1", "t=1e3", "t=1.", "t=.5", "t=nan", "t=inf", "t=1, t=1", "t=1,t=1", " t=1"):
            with self.subTest(sent):
                self.assertEqual(200, self.status(sent))

    def test_start_with_too_many_digits_is_ignored(self):
        for sent in ("t=" + "9" * 100_000, "t=1." + "0" * 100_000, "t=\u0661"):
            with self.subTest(sent[:5]):
                self.assertEqual(200, self.status(sent))


class HostTest(ApiTestCase):
    """``Host``."""

    def test_host_name_or_address_with_or_without_port_is_served(self):
        for host in ("shop", "shop.example:8000", "127.0.0.1:80", "[::1]", "[::1]:8000", "shop.example:", "x_y~z"):
            with self.subTest(host):
                client_of_server({"SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": host}).get("/livez")

    def test_http_1_0_may_omit_the_host(self):
        for protocol in ("HTTP/1.0", "HTTP/1"):
            with self.subTest(protocol):
                client_of_server({"SERVER_PROTOCOL": protocol, "HTTP_HOST": ""}).get("/livez")


class PathAndMethodTest(ApiTestCase):
    """Unknown paths, and methods that a path does not have."""

    def test_unknown_path_is_404_as_a_problem(self):
        unknown = "/ /nothing /users/ /users// /Users /users/login/ /users/x/y /users/.. /users/../orders /users/%2e%2e"
        for path in (*unknown.split(), "/orders/1/items", "/orders/.", "/orders/%2f", "/%00", "/livez/"):
            with self.subTest(path):
                response = self.client.request("GET", path, status=404)
                self.assertProblem(response, 404, "NOT_FOUND", "There is nothing at this path")

    def test_encoded_slash_is_404_if_the_server_keeps_the_raw_path(self):
        user = UserFactory.create()
        for variable in ("RAW_URI", "REQUEST_URI"):
            for sent in (f"/users/{user.id}%2Forders", f"/users%2f{user.id}/orders", "//x/users%2Fx/orders?limit=5"):
                with self.subTest(variable, sent=sent):
                    client = client_of_server({variable: sent})
                    response = client.get(f"/users/{user.id}/orders", user=user, status=404)
                    self.assertProblem(response, 404, "NOT_FOUND", "There is nothing at this path")
            client_of_server({variable: f"/users/{user.id}/orders?status=a%2Fb"}).get(f"/users/{user.id}", user=user)

    def test_method_that_the_path_does_not_have_is_405_with_allow(self):
        user = UserFactory.create()
        for method, path, allowed in (
            ("GET", "/users", {"POST", "OPTIONS"}),
            ("PUT", f"/users/{user.id}", {"GET", "HEAD", "OPTIONS"}),
            ("DELETE", "/orders", {"POST", "OPTIONS"}),
            ("POST", "/livez", {"GET", "HEAD", "OPTIONS"}),
            ("PATCH", "/users/login", {"POST", "OPTIONS"}),
        ):
            for sender in (user, None):
                with self.subTest(method=method, path=path, sender=sender):
                    response = self.client.request(method, path, user=sender, status=405)
                    self.assertProblem(response, 405, "METHOD_NOT_ALLOWED")
                    self.assertEqual(allowed, set(response.headers["Allow"].split(", ")))

    def test_unknown_http_method_is_400(self):
        # Falcon reserves the name WEBSOCKET.
        for method in ("BREW", "WEBSOCKET"):
            with self.subTest(method), warnings.catch_warnings():
                # WebTest's lint refuses unknown methods too.
                warnings.simplefilter("ignore")
                response = self.client.request(method, "/users", status=400)
                self.assertProblem(response, 400, "BAD_REQUEST")

    def test_unknown_http_method_does_not_fill_the_cache(self):
        self.client.get("/orders/1", status=401)
        before = middleware._needs_token.cache_info().currsize
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in range(3):
                self.client.request("BREW" * 1000 * (1 + number), "/users", status=400)
        self.assertEqual(before, middleware._needs_token.cache_info().currsize)

    def test_head_answers_like_get_without_a_body(self):
        user = UserFactory.create()
        for path in (f"/users/{user.id}", "/livez", "/readyz"):
            with self.subTest(path):
                got = self.client.get(path, user=user)
                head = self.client.request("HEAD", path, user=user, status=200)
                self.assertEqual(b"", head.body)
                for header in ("Content-Type", "Content-Length"):
                    self.assertEqual(got.headers[header], head.headers[header])

    def test_head_needs_a_token_if_get_does(self):
        self.client.request("HEAD", f"/users/{UserFactory.create().id}", status=401)

    def test_options_lists_the_methods_without_a_token(self):
        for path, allowed in (
            ("/users", {"POST"}),
            ("/orders/1", {"GET", "HEAD", "PATCH"}),
            ("/livez", {"GET", "HEAD"}),
        ):
            with self.subTest(path):
                response = self.client.request("OPTIONS", path, status=200)
                self.assertEqual(allowed, set(response.headers["Allow"].split(", ")))


class BodyTest(ApiTestCase):
    """Request bodies: their limit, media type and syntax."""

    def test_body_over_the_limit_is_413(self):
        client = make_client(max_body=1000)
        user = UserFactory.create()
        for path, sender in (("/users", None), ("/users/login", None), ("/orders", user)):
            with self.subTest(path):
                response = client.request("POST", path, b" " * 1001, user=sender, status=413)
                self.assertProblem(response, 413, "PAYLOAD_TOO_LARGE", "The body must not be longer than 1000 bytes")
                # A body one byte shorter is read, and is malformed JSON.
                self.assertProblem(
                    client.request("POST", path, b" " * 1000, user=sender, status=400), 400, "MALFORMED_JSON"
                )

    def test_default_limit_is_one_mebibyte(self):
        body = b'{"name": "' + b"x" * (1 << 20) + b'"}'
        self.assertProblem(self.client.request("POST", "/users", body, status=413), 413, "PAYLOAD_TOO_LARGE")

    def test_body_without_json_content_type_is_415(self):
        body = b'{"email": "ada@example.com", "password": "secret1"}'
        for content_type in (None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", ";", "json"):
            with self.subTest(content_type):
                response = self.client.request("POST", "/users/login", body, content_type=content_type, status=415)
                self.assertProblem(response, 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type must be application/json")

    def test_json_content_type_may_have_parameters_and_any_case(self):
        body = b'{"email": "ada@example.com", "password": "secret1"}'
        for content_type in ("application/json; charset=utf-8", "Application/JSON"):
            with self.subTest(content_type):
                self.client.request("POST", "/users/login", body, content_type=content_type, status=401)

    def test_content_encoding_identity_is_accepted(self):
        body = b'{"email": "ada@example.com", "password": "secret1"}'
        for coding in ("identity", "Identity", "identity,identity", ""):
            with self.subTest(coding):
                self.client.request("POST", "/users/login", body, status=401, Content_Encoding=coding)

    def test_malformed_json_is_400_with_its_position(self):
        response = self.client.request("POST", "/users", b'{"name": NaN}', status=400)
        self.assertProblem(response, 400, "MALFORMED_JSON")
        self.assertIn("line 1 column 10", response.json["error"])

    def test_json_that_is_not_an_object_is_invalid(self):
        for body in (b"[]", b"null", b'"text"', b"5", b"true"):
            with self.subTest(body):
                response = self.client.request("POST", "/users", body, status=400)
                self.assertProblem(response, 400, "VALIDATION_ERROR", "The body must be a JSON object")

    def test_body_shorter_than_its_content_length_is_400(self):
        response = self.client.request("POST", "/users", b'{"name": "Ada"}', status=400, Content_Length="100")
        self.assertProblem(response, 400, "MALFORMED_JSON", "The body ended before its Content-Length")


class Endless:
    """A body without an end.

    Attributes:
        taken: How much of it has been read.
    """

    def __init__(self):
        self.taken = 0

    def read(self, size):
        """Return `size` bytes."""
        self.taken += size
        return b" " * size if self.taken < 1 << 20 else b""


class UnreadBodyTest(ApiTestCase):
    """A body that the responder did not read."""

    def send(self, **servers_part):
        """Send a body to an unknown path, and return how much of it was read."""
        app, endless = create_app(make_settings(max_body=1000)), Endless()
        self.addCleanup(create_app, make_settings())
        environ_part = {name.replace("_", ".", 1): value for name, value in servers_part.items()}

        def serve(environ, start_response):
            return app(environ | {"wsgi.input": endless} | environ_part, start_response)

        response = ApiClient(serve).request("POST", "/nothing", b"{", status=404, Content_Length="1000")
        self.assertProblem(response, 404, "NOT_FOUND")
        return endless.taken

    def test_unread_body_is_discarded_up_to_four_times_the_limit(self):
        self.assertEqual(4000, self.send(wsgi_input_terminated=True))

    def test_unread_body_without_a_marked_end_is_not_read(self):
        self.assertEqual(0, self.send(wsgi_input_terminated=False))


class RequestIdTest(ApiTestCase):
    """``X-Request-ID``."""

    def test_well_formed_request_id_is_kept_and_is_in_the_error(self):
        response = self.client.get("/nothing", status=404, X_Request_ID="abc-123_4.5")
        self.assertEqual("abc-123_4.5", response.headers["X-Request-ID"])
        self.assertEqual("abc-123_4.5", response.json["requestId"])

    def test_missing_or_malformed_request_id_is_replaced(self):
        for sent in ({}, {"X_Request_ID": "a b"}, {"X_Request_ID": "x" * 129}, {"X_Request_ID": "<script>"}):
            with self.subTest(sent):
                made = self.client.get("/livez", **sent).headers["X-Request-ID"]
                self.assertRegex(made, r"^[0-9a-f-]{36}$")


class FailureTest(ApiTestCase):
    """What the client sees of failures that it did not cause."""

    def test_health_needs_no_token(self):
        self.assertEqual({"status": "alive"}, self.client.get("/livez").json)
        self.assertEqual({"status": "ready"}, self.client.get("/readyz").json)

    def test_service_without_database_is_alive_but_not_ready(self):
        # Port 1 refuses every connection.
        client = make_client(database_url="postgresql://shop@127.0.0.1:1/shop")
        self.addCleanup(make_client)
        client.get("/livez")
        # The sandbox keeps its connection open, so the test makes the service connect as in production.
        with mock.patch.object(Database, "_send", side_effect=OperationalError("connection refused")):
            for send in (
                lambda: client.get("/readyz", status=503),
                lambda: client.post("/users", UserFactory.body(), status=503),
            ):
                with self.assertLogs("shop.api.problems", "WARNING"):
                    response = send()
                self.assertProblem(response, 503, "SERVICE_UNAVAILABLE", "The service is temporarily unavailable")
                self.assertEqual("1", response.headers["Retry-After"])

    def test_unexpected_exception_is_500_with_only_the_request_id(self):
        for failure in (RuntimeError("what only we know"), InternalError("what only we know")):
            with (
                self.subTest(failure),
                mock.patch.object(Database, "rows", side_effect=failure),
                self.assertLogs("shop.api.problems", "ERROR") as logs,
            ):
                response = self.client.get("/readyz", status=500)
                self.assertProblem(response, 500, "INTERNAL_ERROR", "Something went wrong on our side")
                self.assertNotIn("only we know", response.text)
                self.assertIn(response.json["requestId"], logs.output[0])
                self.assertIn("what only we know", logs.output[0])

    def test_failed_request_writes_nothing_and_the_next_one_works(self):
        body = UserFactory.body()
        with mock.patch("shop.api.responses.write", side_effect=RuntimeError), self.assertLogs("shop", "ERROR"):
            self.client.post("/users", body, status=500)
        self.assertEqual(1, User.select().count(), "the registration itself was committed before the answer failed")
        self.client.post("/users", body, status=409)
