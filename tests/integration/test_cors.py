"""CORS: the headers for origins that `SHOP_CORS_ORIGINS` lists, and for others."""

from unittest import mock

from shop.api import responses
from shop.demo.factories import OrderFactory, UserFactory
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, make_client

PAGE = "https://shop.example.com"
OTHERS = ("https://evil.example", "https://shop.example.com.evil.example", "http://shop.example.com", "null")
NEVER = "0199e0c1-0000-7000-8000-000000000001"


def cors(response):
    """Return the CORS headers of a response, with names in lower case."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return {name: value for name, value in headers.items() if name.startswith("access-control-")}


class CorsTest(ApiTestCase):
    """A service with two allowed origins."""

    def setUp(self):
        super().setUp()
        self.client = make_client(cors_origins=f"http://localhost:5173,{PAGE}")
        self.user = UserFactory.create()

    def preflight(self, path="/orders", method="POST", origin=PAGE, headers="authorization,idempotency-key"):
        """Send a preflight request, as a browser does."""
        asked = {"Access_Control_Request_Method": method, "Access_Control_Request_Headers": headers}
        return self.client.request("OPTIONS", path, status="*", Origin=origin, **asked)

    def test_preflight_needs_no_token_and_allows_the_api_headers(self):
        for path, methods in (
            ("/orders", ["POST"]),
            (f"/orders/{NEVER}", ["GET", "PATCH"]),
            ("/users/login", ["POST"]),
        ):
            with self.subTest(path):
                response = self.preflight(path)
                self.assertEqual(200, response.status_int)
                sent = cors(response)
                self.assertLessEqual(set(methods), set(sent["access-control-allow-methods"].split(", ")))
                self.assertEqual(PAGE, sent["access-control-allow-origin"])
                allowed = sent["access-control-allow-headers"]
                self.assertEqual("Authorization, Content-Type, Idempotency-Key", allowed)
                self.assertIn("access-control-max-age", sent)
                self.assertNotIn("access-control-allow-credentials", sent)

    def test_preflight_does_not_allow_unknown_headers(self):
        self.assertNotIn("x-evil", cors(self.preflight(headers="x-evil"))["access-control-allow-headers"].lower())

    def test_responses_expose_the_headers_that_clients_need(self):
        body = OrderFactory.body(self.user)
        for _ in range(2):
            response = self.client.post("/orders", body, user=self.user, Origin=PAGE, Idempotency_Key="key-1")
        self.assertEqual(
            {
                "access-control-allow-origin": PAGE,
                "access-control-expose-headers": "Location, Link, Retry-After, X-Request-ID, Idempotent-Replayed",
            },
            cors(response),
        )

    def test_errors_are_exposed_too(self):
        def broken(*_):
            raise RuntimeError("nobody has foreseen this")

        with mock.patch.object(responses, "order", broken), self.assertLogs("shop", "ERROR"):
            order = OrderFactory.body(self.user)
            failed = self.client.post("/orders", order, user=self.user, status=500, Origin=PAGE)
        for response in (
            failed,
            self.client.get(f"/orders/{NEVER}", status=401, Origin=PAGE),
            self.client.get(f"/orders/{NEVER}", user=self.user, status=404, Origin=PAGE),
            self.client.get("/nothing", status=404, Origin=PAGE),
            self.client.get("/orders/", user=self.user, status=404, Origin=PAGE),
            self.client.request("PUT", "/orders", user=self.user, status=405, Origin=PAGE),
            self.client.post("/users", {}, status=400, Origin=PAGE),
            self.client.request("POST", "/users", b"{}" * 10**6, status=413, Origin=PAGE),
        ):
            with self.subTest(response.status):
                self.assertEqual(PAGE, cors(response)["access-control-allow-origin"])

    def test_other_origins_get_no_cors_header(self):
        for origin in OTHERS:
            with self.subTest(origin):
                self.assertEqual({}, cors(self.preflight(origin=origin)))
                self.assertEqual({}, cors(self.client.get("/livez", Origin=origin)))
        self.assertEqual({}, cors(self.client.get("/livez")))

    def test_no_response_allows_all_origins_or_credentials(self):
        for origin in ("http://localhost:5173", PAGE, *OTHERS):
            for response in (self.preflight(origin=origin), self.client.get("/livez", Origin=origin)):
                with self.subTest(origin=origin):
                    self.assertNotIn("*", cors(response).values())
                    self.assertNotIn("access-control-allow-credentials", cors(response))

    def test_responses_vary_by_origin(self):
        for response in (
            self.client.get("/livez"),
            self.client.get("/livez", Origin=PAGE),
            self.client.get("/livez", Origin=OTHERS[0]),
            self.client.get("/nothing", status=404),
            self.preflight(),
        ):
            self.assertEqual("Origin", response.headers["Vary"])
        self.assertEqual("Accept-Encoding, Origin", self.client.get("/docs").headers["Vary"])


class DefaultTest(ApiTestCase):
    """A service without allowed origins."""

    def test_no_response_has_a_cors_header_without_origins(self):
        asked = {"Access_Control_Request_Method": "POST", "Origin": PAGE}
        for response in (
            self.client.request("OPTIONS", "/orders", status=200, **asked),
            self.client.get("/livez", Origin=PAGE),
        ):
            self.assertEqual({}, cors(response))
            self.assertNotIn("Vary", response.headers)
