"""The examples that people copy: those of docs/testing.md, each a module of tests of its own, and the README's tour."""

import json
import re
import shutil
import subprocess
import unittest
from pathlib import Path

from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.support.cases import LiveServerTestCase

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "testing.md"


def examples() -> list[tuple[int, str]]:
    """Return the Python examples of the guide, each with the line that it begins on."""
    text = GUIDE.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, example.start(1)) + 1, example[1]) for example in found]


def run_examples() -> None:
    """Define the test classes of every example in this module, where any runner finds them by name."""
    for line, source in examples():
        # Blank lines before it, so that a traceback names the line of the guide.
        defined: dict[str, object] = {"__name__": __name__}
        exec(compile("\n" * (line - 1) + source, str(GUIDE), "exec"), defined)
        for name, item in defined.items():
            if isinstance(item, type) and item.__module__ == __name__:
                item.__qualname__ = f"{name}OfLine{line}"
                globals()[item.__qualname__] = item


run_examples()


class GuideTest(unittest.TestCase):
    """The guide itself."""

    def test_the_guide_has_examples(self):
        self.assertLessEqual(4, len(examples()))


@unittest.skipUnless(shutil.which("curl"), "the tour is one with curl, and there is none on this machine")
class TourTest(LiveServerTestCase):
    """The README's tour, as it is printed but for the address."""

    def test_the_tour_works_when_pasted(self):
        (tour,) = re.findall(r"```sh\n(api=.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
        pasted = tour.replace("http://127.0.0.1:8000", self.shop.url, 1)
        printed = subprocess.run(["sh", "-eu"], input=pasted, capture_output=True, text=True, check=True).stdout
        registered, placed, read, history, cancelled, refused = map(json.loads, printed.splitlines())
        self.assertEqual("Ada Lovelace", registered["name"])
        self.assertEqual((109.97, "confirmed"), (placed["total"], placed["status"]))
        self.assertEqual(placed | {"user": read["user"]}, read)
        self.assertEqual([placed], history["orders"])
        self.assertEqual(placed | {"status": "cancelled"}, cancelled)
        self.assertEqual(("MISSING_FIELDS", 4), (refused["code"], len(refused["errors"])))
