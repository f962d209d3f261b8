"""The page at ``/docs`` as people get it: in a real Chromium, against the real server."""

import json
import os
import shutil
import tempfile
import unittest
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from shop.demo.factories import UserFactory
from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.support.cases import LiveServerTestCase
from tests.support.operations import operations

# Seconds; only a page that does not work takes as long.
PATIENCE = 15
POLL = 0.02
ARGUMENTS = (
    "--headless",
    "--window-size=1280,1600",
    # Root and most containers have none; what is shown is our own page.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    # The browser itself is to ask nobody for anything.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class DocsPageTest(LiveServerTestCase):
    """What the page shows and does. Each test ends with a look at what the browser complained of, and whom it asked."""

    environment: ClassVar = {"SHOP_WORKERS": "1"}
    browser: ClassVar[webdriver.Chrome]

    @classmethod
    def setUpClass(cls) -> None:
        driver = shutil.which("chromedriver")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if not (driver and chromium):
            missing = "there is no chromium with chromedriver on PATH; on Debian: apt install chromium-driver"
            # CI installs them, so that there the page is never left out unseen.
            raise AssertionError(missing) if os.environ.get("CI") else unittest.SkipTest(missing)
        super().setUpClass()
        profile = cls.enterClassContext(
            tempfile.TemporaryDirectory(prefix="shop-chromium-", ignore_cleanup_errors=True)
        )
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        cls.browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
        cls.addClassCleanup(cls.browser.quit)

    def setUp(self) -> None:
        super().setUp()
        self.browser.get(f"{self.shop.url}/docs")
        self.wait_for("the operations are listed", lambda: self.all(".opblock"))

    def tearDown(self) -> None:
        # What a Content-Security-Policy has stopped is among the complaints.
        self.assertEqual([], [entry["message"] for entry in self.browser.get_log("browser")])
        asked = {urlsplit(url).netloc for url in self.requested() if url.startswith(("http", "ws"))}
        self.assertEqual({urlsplit(self.shop.url).netloc}, asked, "the page asks nobody but this server")
        super().tearDown()

    # -- looking and doing --------------------------------------------------------------------------------------------

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of the page that a CSS selector finds."""
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait_for(self, what: str, look: Callable[[], Any]) -> Any:
        """Return what `look` finds as soon as it finds something."""
        wait = WebDriverWait(self.browser, PATIENCE, POLL)
        return wait.until(lambda _: look(), f"in {PATIENCE} seconds it has not come about that {what}")

    def one(self, selector: str) -> WebElement:
        """Return the first visible element of a selector as soon as there is one."""
        found = f"there is a visible {selector}"
        return self.wait_for(found, lambda: next((e for e in self.all(selector) if e.is_displayed()), None))

    def requested(self) -> list[str]:
        """Return the addresses that the browser has asked since the last look."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def fill(self, selector: str, text: str) -> None:
        """Put `text` in the place of what a field has, at once, as if pasted: the page works at every key."""
        field = self.one(selector)
        field.send_keys(Keys.CONTROL, "a")
        self.browser.execute_cdp_cmd("Input.insertText", {"text": text})
        self.wait_for(f"{selector} holds what was put there", lambda: field.get_property("value") == text)

    def try_out(self, operation: str, body: object) -> tuple[int, Any]:
        """Open an operation, send `body` as a person would, and return status and body that the page shows."""
        block = f"[id$='-{operation}']"
        self.one(f"{block} .opblock-summary-control").click()
        # The page puts an example there first.
        self.wait_for("there is an example", lambda: self.one(f"{block} textarea").get_property("value"))
        self.fill(f"{block} textarea", json.dumps(body))
        self.one(f"{block} .execute").click()
        answer = f"{block} .live-responses-table .response"
        status = self.one(f"{answer} .response-col_status").text.split()[0]
        return int(status), json.loads(self.one(f"{answer} .response-col_description .highlight-code code").text)

    # -- what holds ---------------------------------------------------------------------------------------------------

    def test_it_lists_every_operation_with_its_summary(self):
        listed = {
            tuple(block.text.split("\n")[:3])
            for block in self.wait_for("they all are", lambda: self.all(".opblock-summary"))
        }
        described = {(o.method, o.template, o.declared.summary) for o in operations()}
        # Long paths may be broken by invisible characters, for the narrow screen.
        self.assertEqual(described, {(m, path.replace("\u200b", ""), summary) for m, path, summary in listed})
        self.assertEqual(
            ["users", "orders", "service"], [e.get_attribute("data-tag") for e in self.all(".opblock-tag")]
        )

    def test_trying_out_logs_in_and_places_an_order(self):
        person = UserFactory.body(email="page@example.com")
        user_id = self.connection.post("/users", person).json["id"]

        status, session = self.try_out("logIn", {"email": person["email"], "password": person["password"]})
        self.assertEqual((200, user_id), (status, session["id"]))

        self.one(".auth-wrapper > .authorize").click()
        self.fill(".auth-container input", session["token"])
        self.one(".auth-btn-wrapper .authorize").click()
        self.one(".auth-btn-wrapper .btn-done").click()

        body = {
            "userId": user_id,
            "items": [{"productId": "tea-1", "name": "Tea", "price": 19.99, "quantity": 3}],
            "shippingAddress": {"street": "1 Main St"},
        }
        status, order = self.try_out("placeOrder", body)
        self.assertEqual((201, 59.97), (status, order["total"]))

        self.connection.token = session["token"]
        kept = self.connection.get(f"/orders/{order['id']}")
        self.assertEqual((200, body["items"]), (kept.status, kept.json["items"]))
