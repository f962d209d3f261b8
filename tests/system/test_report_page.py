"""The report of a test run in a real Chromium, on a wide screen and on a phone."""

import tempfile
from collections import Counter
from pathlib import Path

from tests.harness import contract, report_pages
from tests.harness.findings import Findings
from tests.harness.gates import File
from tests.harness.report_facts import Test
from tests.selftest.test_report import facts_of
from tests.support.access import policy
from tests.support.browser import BrowserTestCase, set_screen

PHONE, SCREEN = 390, 1280
NAME = "tests.integration.test_orders.ReadingTest.test_an_order_of_another_user_is_not_found_whatever_its_status_is"
TRACEBACK = f"Traceback (most recent call last):\n  File {'/long' * 60}\nAssertionError: {'x' * 300}\nrerun: {NAME}"
# Everything to the right of the page that no scrolling box contains.
TOO_WIDE = """
const width = document.documentElement.clientWidth;
document.querySelectorAll("details").forEach(each => each.open = true);
return [...document.body.querySelectorAll("*")]
    .filter(each => !each.closest(".wide, pre") && each.getBoundingClientRect().right > width + 0.5)
    .map(each => each.outerHTML.slice(0, 200));
"""


def pages() -> dict[str, str]:
    """Return the pages of a complete run with gaps and failures, and of a partial run."""
    module = NAME.rsplit(".", 2)[0]
    tests = [
        Test(NAME, module, "ReadingTest", "An order of another user is not found", "failed", 1.5, TRACEBACK),
        Test(f"{NAME}_2", module, "ReadingTest", "A skipped test", "skipped", 0.0, "there is no Docker here"),
        Test("tests.test_flows.A.test_b", "tests.test_flows", "A", "A user places an order.", "passed", 0.1, ""),
    ]
    findings = Findings(
        answers=Counter(dict.fromkeys(sorted(contract.described_answers(), key=str)[::2], 12345)),
        access={(operation, caller): "404 NOT_FOUND" for operation, row in policy().items() for caller in row},
        statements=5000,
        sandboxes=300,
    )
    findings.seconds["tests", "sandbox"] = 0.6
    files = [File("shop/security/tokens.py", 61.5, [f"{line}->{line + 2}" for line in range(10, 90, 2)])]
    runs = {"complete": facts_of(findings, files, tests), "partial": facts_of(findings, None, tests)}
    return {name: report_pages.render(facts)["report.html"] for name, facts in runs.items()}


class ReportPageTest(BrowserTestCase):
    """What holds for the pages of both runs at both widths."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        for name, page in pages().items():
            (cls.folder / f"{name}.html").write_text(page, "utf-8")

    def open(self, run: str, width: int, scheme: str = "light") -> str:
        """Open the page of a run, and return its address."""
        set_screen(self.browser, width, scheme=scheme)
        address = (self.folder / f"{run}.html").as_uri()
        self.browser.get(address)
        return address

    def color(self, selector: str, name: str = "color") -> str:
        return self.one(selector).value_of_css_property(name)

    def test_nothing_is_wider_than_the_page_at_either_width(self):
        for run in ("complete", "partial"):
            for width in (PHONE, SCREEN):
                with self.subTest(run=run, width=width):
                    self.open(run, width)
                    self.assertEqual([], self.browser.execute_script(TOO_WIDE))
                    found = self.browser.execute_script("return document.documentElement.scrollWidth")
                    self.assertLessEqual(found, width)

    def test_wide_tables_scroll_in_their_own_box_on_a_phone(self):
        self.open("complete", PHONE)
        boxes = [(int(e.get_property("scrollWidth")), int(e.get_property("clientWidth"))) for e in self.all(".wide")]
        self.assertEqual(2, len(boxes))
        for content, box in boxes:
            self.assertGreater(content, box)

    def test_a_partial_run_has_a_label_in_a_neutral_color(self):
        self.open("complete", SCREEN)
        self.assertNotIn("Partial run", self.one("header").text)
        colors = {self.color(f".legend .tag.{mood}") for mood in ("good", "bad", "warn")}
        self.open("partial", SCREEN)
        self.assertEqual("Partial run", self.one("header .tag").text)
        self.assertNotIn(self.color("header .tag"), colors)

    def test_ten_recommendations_are_visible_and_the_others_after_a_click(self):
        self.open("complete", SCREEN)
        items = "#recommendations li"
        self.assertEqual(10, sum(each.is_displayed() for each in self.all(items)))
        self.one("#recommendations summary").click()
        self.assertGreater(sum(each.is_displayed() for each in self.all(items)), 10)

    def test_it_follows_the_color_scheme(self):
        colors = []
        for scheme in ("light", "dark"):
            self.open("complete", SCREEN, scheme)
            colors.append((self.color("body"), self.color("body", "background-color")))
        self.assertEqual(4, len({color for pair in colors for color in pair}), colors)

    def test_it_requests_nothing_but_itself(self):
        self.requested()
        address = self.open("complete", SCREEN)
        self.assertEqual(({address}, []), (set(self.requested()), self.complaints()))
