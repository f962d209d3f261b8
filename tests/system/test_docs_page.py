"""The page at ``/docs`` in a real Chromium, served by the real command."""

import json
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

from selenium.webdriver.common.keys import Keys

from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.browser import BrowserTestCase
from tests.support.cases import LiveServerTestCase
from tests.support.operations import operations


class DocsPageTest(BrowserTestCase, LiveServerTestCase):
    """What the page shows and does. After each test, the browser has no complaint and has asked no other server."""

    environment: ClassVar = {"SHOP_WORKERS": "1"}

    def setUp(self) -> None:
        super().setUp()
        self.browser.get(f"{self.shop.url}/docs")
        self.wait_for("the operations are listed", lambda: self.all(".opblock"))

    def tearDown(self) -> None:
        self.assertEqual([], self.complaints())
        asked = {urlsplit(url).netloc for url in self.requested() if url.startswith(("http", "ws"))}
        self.assertEqual({urlsplit(self.shop.url).netloc}, asked, "the page asks nobody but this server")
        super().tearDown()

    def fill(self, selector: str, text: str) -> None:
        """Put `text` in the place of what a field has, at once, as if pasted: the page works at every key."""
        field = self.one(selector)
        field.send_keys(Keys.CONTROL, "a")
        self.browser.execute_cdp_cmd("Input.insertText", {"text": text})
        self.wait_for(f"{selector} holds what was put there", lambda: field.get_property("value") == text)

    def try_out(self, operation: str, change: Callable[[Any], Any] | None = None) -> tuple[int, Any]:
        """Open an operation and send its example as a person would; return status and body that the page shows.

        Args:
            operation: Its id.
            change: Returns the body to send for the example; None sends the example.
        """
        block = f"[id$='-{operation}']"
        self.one(f"{block} .opblock-summary-control").click()
        example = self.wait_for("there is an example", lambda: self.one(f"{block} textarea").get_property("value"))
        if change:
            self.fill(f"{block} textarea", json.dumps(change(json.loads(example))))
        self.one(f"{block} .execute").click()
        answer = f"{block} .live-responses-table .response"
        status = self.one(f"{answer} .response-col_status").text.split()[0]
        return int(status), json.loads(self.one(f"{answer} .response-col_description .highlight-code code").text)

    def authorize(self, token: str) -> None:
        """Have the page send a token from now on."""
        self.one(".auth-wrapper > .authorize").click()
        self.fill(".auth-container input", token)
        self.one(".auth-btn-wrapper .authorize").click()
        self.one(".auth-btn-wrapper .btn-done").click()

    def test_it_lists_every_operation_but_its_own_assets(self):
        listed = {
            tuple(block.text.split("\n")[:3])
            for block in self.wait_for("they all are", lambda: self.all(".opblock-summary"))
        }
        described = {(o.method, o.template, o.declared.summary) for o in operations() if o.template != "/docs/{asset}"}
        webhooks = self.connection.get("/openapi.json").json["webhooks"]
        described |= {("POST", name, webhook["post"]["summary"]) for name, webhook in webhooks.items()}
        # Long paths may be broken by invisible characters, for the narrow screen.
        self.assertEqual(described, {(m, path.replace("\u200b", ""), summary) for m, path, summary in listed})
        self.assertEqual(
            ["users", "orders", "service"], [e.get_attribute("data-tag") for e in self.all(".opblock-tag")]
        )

    def test_trying_out_registers_logs_in_and_places_an_order(self):
        registered = self.try_out("registerUser")
        self.assertEqual((201, "Ada Lovelace"), (registered[0], registered[1]["name"]))
        status, session = self.try_out("logIn")
        self.assertEqual((200, registered[1]["id"]), (status, session["id"]))
        self.authorize(session["token"])
        # Only the user's id is everybody's own.
        status, order = self.try_out("placeOrder", lambda example: example | {"userId": session["id"]})
        self.assertEqual((201, 59.98), (status, order["total"]))
        self.connection.token = session["token"]
        kept = self.connection.get(f"/orders/{order['id']}")
        self.assertEqual((200, order["items"]), (kept.status, kept.json["items"]))
