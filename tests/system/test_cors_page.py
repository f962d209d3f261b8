"""A page of another origin in a real Chromium, which calls the API with `fetch`."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from shop import exactjson
from shop.demo.factories import OrderFactory, UserFactory
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.browser import BrowserTestCase
from tests.support.cases import LiveServerTestCase

# Sends a request and returns what the page can read of the answer.
CALL = """
const [url, options, done] = arguments;
fetch(url, options).then(
    async (response) => done({
        status: response.status,
        headers: Object.fromEntries(response.headers),
        body: await response.json(),
    }),
    (error) => done({refused: String(error)}),
);
"""


class _Page(BaseHTTPRequestHandler):
    """Serves an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel='icon' href='data:,'><title>A shop window</title>")

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class CorsPageTest(BrowserTestCase, LiveServerTestCase):
    """The page is served at an address that the service lists, and at another one."""

    environment: ClassVar = {"SHOP_WORKERS": "1"}

    @classmethod
    def setUpClass(cls) -> None:
        site = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
        cls.addClassCleanup(site.server_close)
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        cls.addClassCleanup(thread.join)
        cls.addClassCleanup(site.shutdown)
        cls.page = f"http://localhost:{site.server_port}"
        # To a browser this is another origin, though the same server answers.
        cls.other_page = f"http://127.0.0.1:{site.server_port}"
        cls.environment = cls.environment | {"SHOP_CORS_ORIGINS": cls.page}
        super().setUpClass()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """Send a request from the page."""
        options = {"method": method, "headers": headers}
        if body is not None:
            options["headers"] = headers | {"Content-Type": "application/json"}
            options["body"] = body
        return self.browser.execute_async_script(CALL, f"{self.shop.url}{path}", options)

    def json(self, document: Any) -> str:
        """Return a body."""
        return exactjson.dumps(document).decode()

    def test_a_page_of_a_listed_origin_does_all_that_a_client_does(self):
        self.browser.get(self.page)
        person = UserFactory.body()
        registered = self.call("POST", "/users", self.json(person))
        self.assertEqual(201, registered["status"])
        self.assertEqual(f"/users/{registered['body']['id']}", registered["headers"]["location"])

        credentials = {"email": person["email"], "password": person["password"]}
        token = self.call("POST", "/users/login", self.json(credentials))["body"]["token"]
        known = {"Authorization": f"Bearer {token}"}
        items = OrderFactory.items(1)
        order = {"userId": registered["body"]["id"], "items": items, "shippingAddress": {"street": "1 Main St"}}
        placed = [self.call("POST", "/orders", self.json(order), **known, **{"Idempotency-Key": "k"}) for _ in range(2)]
        self.assertEqual([201, 201], [answer["status"] for answer in placed])
        self.assertEqual("true", placed[1]["headers"]["idempotent-replayed"])

        changed = self.call("PATCH", placed[0]["headers"]["location"], '{"status": "cancelled"}', **known)
        self.assertEqual((200, "cancelled"), (changed["status"], changed["body"]["status"]))

        refused = self.call("GET", placed[0]["headers"]["location"])
        self.assertEqual((401, "UNAUTHORIZED"), (refused["status"], refused["body"]["code"]))
        self.assertEqual(refused["body"]["requestId"], refused["headers"]["x-request-id"])

    def test_a_page_of_another_origin_reads_nothing_and_writes_nothing(self):
        self.browser.get(self.other_page)
        person = UserFactory.body()
        self.assertIn("TypeError", self.call("POST", "/users", self.json(person))["refused"])
        self.assertIn("TypeError", self.call("GET", "/livez")["refused"])
        credentials = {"email": person["email"], "password": person["password"]}
        self.assertEqual(401, self.connection.post("/users/login", credentials).status, "nobody was registered")
