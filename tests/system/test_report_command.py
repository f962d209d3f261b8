"""The command of the report, on a small package of tests, and the measurement of coverage."""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from xml.etree import ElementTree

from tests.harness.gates import unmeasured
from tests.harness.live import LIMIT, ROOT

# A measurement that finds the unfinished file of a killed process.
KILLED = """
from tests.harness.gates import Measurement
measurement = Measurement()
from shop.ids import parse_id
parse_id("not an id")
measurement._data.with_name("data.machine.pid1.X").touch()
print("shop/ids.py" in {file.name for file in measurement.end().files if file.percent > 0})
"""
TESTS = '''
import unittest

class MixedTest(unittest.TestCase):
    def test_a_name_is_a_sentence(self): pass

    def test_documented(self):
        """What the docstring says."""

    def test_failing(self): self.fail("<b>1 & 2</b> \\x00")

    def test_raising(self): raise OSError("broken")

    @unittest.skip("because of the weather")
    def test_skipped(self): pass

    def test_part(self):
        for number in (1, 2):
            with self.subTest(number=number):
                self.assertEqual(1, number)

class BrokenFixtureTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no fixture")

    def test_never_reached(self): pass
'''


class CommandTest(unittest.TestCase):
    """The command, and the files that it writes."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="shop-report-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        (cls.folder / "test_mixed.py").write_text(TESTS)
        cls.ended = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.harness.report"],
            cwd=cls.folder,
            env={"PYTHONPATH": f"{ROOT}:{cls.folder}", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        cls.files = {path.name: path.read_text("utf-8") for path in (cls.folder / "build/report").iterdir()}
        cls.facts = json.loads(cls.files["report.json"])

    def test_the_last_line_has_the_counts_and_the_status_is_that_of_the_run(self):
        self.assertEqual(("2 passed, 4 failed, 1 skipped\n", 1), (self.ended.stdout, self.ended.returncode))

    def test_progress_is_plain_lines_without_a_terminal(self):
        self.assertRegex(self.ended.stderr, r"(?m)^ +6 of 7 tests  MixedTest, 3 failed$")
        self.assertNotIn("\x1b", self.ended.stderr)

    def test_each_test_has_a_sentence_a_verdict_and_the_reason(self):
        found = {test["name"].removeprefix("test_mixed."): test for test in self.facts["tests"]}
        self.assertEqual("A name is a sentence", found["MixedTest.test_a_name_is_a_sentence"]["sentence"])
        self.assertEqual("What the docstring says.", found["MixedTest.test_documented"]["sentence"])
        self.assertEqual(
            {
                "MixedTest.test_a_name_is_a_sentence": "passed",
                "MixedTest.test_documented": "passed",
                "MixedTest.test_failing": "failed",
                "MixedTest.test_part": "failed",
                "MixedTest.test_raising": "error",
                "MixedTest.test_skipped": "skipped",
                "setUpClass (test_mixed.BrokenFixtureTest)": "error",
            },
            {name: test["verdict"] for name, test in found.items()},
        )
        self.assertEqual("because of the weather", found["MixedTest.test_skipped"]["text"])
        self.assertEqual("OSError: broken", found["MixedTest.test_raising"]["headline"])
        fixture = found["setUpClass (test_mixed.BrokenFixtureTest)"]
        self.assertEqual(("test_mixed", "OSError: no fixture"), (fixture["module"], fixture["headline"]))

    def test_junit_has_the_same_counts_and_is_valid_xml(self):
        suite = ElementTree.fromstring(self.files["junit.xml"]).find("testsuite")
        counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
        self.assertEqual(["7", "2", "2", "1"], counts)
        self.assertEqual(7, len(suite.findall("testcase")))
        failing = suite.find("testcase[@name='test_failing']/failure")
        self.assertIn("<b>1 & 2</b>", failing.text)

    def test_the_page_is_one_file_and_escapes_the_texts_of_tests(self):
        page = self.files["report.html"]
        self.assertIn("&lt;b&gt;1 &amp; 2&lt;/b&gt;", page)
        self.assertNotIn("<b>1 & 2", page)
        self.assertNotRegex(page, r'(?i)<(script|link|img|iframe)|@import|url\(|\b(src|href)="(?!#)')

    def test_recommendations_of_a_partial_run_do_not_mention_coverage(self):
        shown = self.facts["recommendations"]["shown"]
        self.assertEqual(
            ["Fix the failing tests first", "Run the whole suite", "Run the skipped tests"],
            [group["action"] for group in shown],
        )
        self.assertEqual([{"subject": "1 test", "detail": "because of the weather"}], shown[2]["items"])
        self.assertEqual([], self.facts["recommendations"]["folded"])


class MeasurementTest(unittest.TestCase):
    """Coverage of several processes."""

    def test_the_unfinished_measurement_of_a_killed_process_is_ignored(self):
        with unmeasured():
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", KILLED],
                cwd=ROOT, capture_output=True, text=True, timeout=LIMIT,
            )  # fmt: skip
        self.assertEqual(("True\n", ""), (done.stdout, done.stderr))
