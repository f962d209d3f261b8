"""Takes the pictures in docs/images: the page /docs, and the report of a test run.

    scripts/serve                   # in another terminal
    scripts/report --all --parallel
    .venv/bin/python -m scripts.screenshots [URL]

It needs Chromium and pngquant (on Debian: apt install chromium-driver pngquant).
"""

import base64
import subprocess
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.browser import PATIENCE, open_browser, set_screen

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH = 1280


def take(browser: webdriver.Chrome, name: str, url: str, *, ready: str, height: int) -> None:
    """Save a picture of the top of a page as soon as it has an element that matches `ready`."""
    set_screen(browser, WIDTH, height)
    browser.get(url)
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.find_elements(By.CSS_SELECTOR, ready))
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
    path = IMAGES / f"{name}.png"
    path.write_bytes(base64.b64decode(picture["data"]))
    subprocess.run(["pngquant", "--force", "--strip", "--ext", ".png", "--speed", "1", "64", str(path)], check=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Take both pictures; the service answers at `url`."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser:
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        take(browser, "docs", f"{url}/docs", ready=".opblock", height=858)
        take(browser, "report", (ROOT / "build/report/report.html").as_uri(), ready="#tests", height=962)


if __name__ == "__main__":
    main(*sys.argv[1:])
