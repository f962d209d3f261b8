"""The examples that start a server: those of docs/testing.md, and the README's tour."""

import json
import re
import shutil
import subprocess
import unittest
from pathlib import Path

from tests.harness.postgres import setUpModule, tearDownModule  # noqa: F401
from tests.support.cases import LiveServerTestCase
from tests.support.guide import define_examples

ROOT = Path(__file__).resolve().parents[2]

define_examples(globals(), lambda kind: issubclass(kind, LiveServerTestCase))


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
