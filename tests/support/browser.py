"""A headless Chromium for the tests of pages."""

import json
import os
import shutil
import tempfile
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

# Seconds. Only a broken page takes as long.
PATIENCE = 15
POLL = 0.02
ARGUMENTS = (
    "--headless",
    "--window-size=1280,1600",
    # root and most containers have no sandbox, and the browser shows only our own pages.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    # The browser itself sends no requests.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_programs() -> tuple[str, str]:
    """Return the paths of Chromium and of its driver.

    Raises:
        FileNotFoundError: One of them is missing.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        raise FileNotFoundError("chromium and chromedriver are not on PATH; on Debian: apt install chromium-driver")
    return chromium, driver


@contextmanager
def open_browser() -> Iterator[webdriver.Chrome]:
    """Start a browser with an empty profile for the duration of the block."""
    chromium, driver = find_programs()
    with tempfile.TemporaryDirectory(prefix="test-chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            yield browser
        finally:
            browser.quit()


def set_screen(browser: webdriver.Chrome, width: int, height: int = 1600, scheme: str = "light") -> None:
    """Set the size of the screen in pixels, and the color scheme (``light`` or ``dark``)."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


class BrowserTestCase(unittest.TestCase):
    """Tests of pages.

    Attributes:
        browser: The browser of the class.
    """

    browser: ClassVar[webdriver.Chrome]

    @classmethod
    def setUpClass(cls) -> None:
        try:
            find_programs()
        except FileNotFoundError as error:
            # CI installs them, so it never skips these tests.
            failure = AssertionError if os.environ.get("CI") else unittest.SkipTest
            raise failure(str(error)) from None
        super().setUpClass()
        cls.browser = cls.enterClassContext(open_browser())

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of the page that match a CSS selector."""
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait_for(self, what: str, look: Callable[[], Any]) -> Any:
        """Return the result of `look` as soon as it is true."""
        wait = WebDriverWait(self.browser, PATIENCE, POLL)
        return wait.until(lambda _: look(), f"after {PATIENCE} seconds this is still not true: {what}")

    def one(self, selector: str) -> WebElement:
        """Return the first visible element that matches `selector`, as soon as there is one."""
        what = f"there is a visible {selector}"
        return self.wait_for(what, lambda: next((e for e in self.all(selector) if e.is_displayed()), None))

    def complaints(self) -> list[str]:
        """Return what the browser reported since the last call, violations of the page's policy included."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requested(self) -> list[str]:
        """Return the URLs that the browser requested since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
