"""The examples that start a server: those of docs/testing.md, and the README's tour, which can be pasted twice."""

import json
import re
import shutil
import subprocess
import unittest
from typing import Any, ClassVar

from shop.api import schemas
from tests.harness.live import LIMIT, ROOT
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import LiveServerTestCase
from tests.support.guide import define_examples
from tests.support.operations import example

define_examples(globals(), lambda kind: issubclass(kind, LiveServerTestCase))


@unittest.skipUnless(shutil.which("curl"), "the tour needs curl")
class TourTest(LiveServerTestCase):
    """Each line of the output is one answer."""

    environment: ClassVar = {"SHOP_WORKERS": "1"}

    def paste(self) -> list[Any]:
        """Run the tour as it stands in the README, against this server, and return what it prints."""
        readme = (ROOT / "README.md").read_text("utf-8")
        (tour,) = re.findall(r"^## A tour with curl$.*?^```sh$(.*?)^```$", readme, re.M | re.S)
        self.assertIn("api=http://127.0.0.1:8000\n", tour)
        tour = tour.replace("http://127.0.0.1:8000", self.shop.url)
        pasted = subprocess.run(["sh", "-eu"], input=tour, capture_output=True, text=True, timeout=LIMIT, check=True)
        self.assertEqual("", pasted.stderr)
        return [json.loads(line) for line in pasted.stdout.splitlines()]

    def assertToured(self, answers: list[Any]) -> str:
        """Fail unless the answers after the registration are what the tour promises; return the id of the order."""
        placed, again, read, history, cancelled, refusal = answers
        self.assertEqual((109.97, "confirmed"), (placed["total"], placed["status"]))
        self.assertEqual(placed, again)
        self.assertEqual(placed | {"user": read["user"]}, read)
        self.assertEqual("ada@example.com", read["user"]["email"])
        self.assertEqual([placed], history["orders"])
        self.assertEqual(placed | {"status": "cancelled"}, cancelled)
        self.assertEqual({"name", "email", "password", "role"}, {fault["field"] for fault in refusal["errors"]})
        return placed["id"]

    def test_pasted_twice_it_does_the_same_twice(self):
        registered, *rest = self.paste()
        self.assertEqual("Ada Lovelace", registered["name"])
        first = self.assertToured(rest)
        refused, *rest = self.paste()
        self.assertEqual((409, "EMAIL_EXISTS"), (refused["status"], refused["code"]))
        self.assertNotEqual(first, self.assertToured(rest), "it is another order")

    def test_its_user_is_the_one_that_the_page_registers(self):
        readme = (ROOT / "README.md").read_text("utf-8")
        registered = json.loads(re.search(r"^curl -s \$api/users -H .*? -d '(.*?)'; echo$", readme, re.M)[1])
        self.assertEqual(example(schemas.Registration), registered)
