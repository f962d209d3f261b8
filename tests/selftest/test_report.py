"""The report says what a run came to, in every form, on a small package of tests that is thrown away."""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

from tests.harness import gates, report_facts, report_pages
from tests.harness.findings import Findings
from tests.harness.measured import unmeasured

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30.0  # seconds, reached only by a broken promise
# A measurement that finds the file of a process that had just begun to write.
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


class ReportTest(unittest.TestCase):
    """The command, and the files that it leaves."""

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

    def test_the_last_line_counts_and_the_status_is_that_of_the_run(self):
        self.assertEqual(("2 passed, 4 failed, 1 skipped\n", 1), (self.ended.stdout, self.ended.returncode))

    def test_progress_is_plain_lines_away_from_a_terminal(self):
        self.assertRegex(self.ended.stderr, r"(?m)^ +6 of 7 tests, 3 failing  test_mixed.MixedTest$")
        self.assertNotIn("\x1b", self.ended.stderr)

    def test_each_test_is_there_with_a_sentence_its_verdict_and_why(self):
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
        self.assertIn("OSError: no fixture", found["setUpClass (test_mixed.BrokenFixtureTest)"]["text"])

    def test_junit_counts_the_same_and_can_be_read(self):
        suite = ElementTree.fromstring(self.files["junit.xml"]).find("testsuite")
        counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
        self.assertEqual(["7", "2", "2", "1"], counts)
        self.assertEqual(7, len(suite.findall("testcase")))
        failing = suite.find("testcase[@name='test_failing']/failure")
        self.assertIn("<b>1 & 2</b>", failing.text)

    def test_the_page_is_one_file_and_shows_what_tests_say_as_text(self):
        page = self.files["report.html"]
        self.assertIn("&lt;b&gt;1 &amp; 2&lt;/b&gt;", page)
        self.assertNotIn("<b>1 & 2", page)
        self.assertNotRegex(page, r'(?i)<(script|link|img|iframe)|\b(src|href)="(?!#)')

    def test_recommendations_follow_from_the_run(self):
        recommended = "\n".join(self.facts["recommendations"])
        self.assertIn("Mend first what fails (4 of 7)", recommended)
        self.assertIn("Run the whole suite", recommended)
        self.assertIn("because of the weather", recommended)
        for recommendation in self.facts["recommendations"]:
            self.assertIn(recommendation.replace("'", "&#39;"), self.files["report.html"])


class FactsTest(unittest.TestCase):
    """What is worked out from a whole run's findings."""

    def gathered(self, findings: Findings, files: list[gates.File]) -> dict:
        """Return the facts of a run that found these, and ran these files so far."""
        coverage = gates.CodeCoverage(90.0, 100, 20, files)
        shortfalls = gates.shortfalls(findings, coverage)
        program = mock.Mock(coverage=coverage, shortfalls=shortfalls, status=1)
        program.result.findings, program.result.seconds = findings, {"a.B.test_c": 1.0}
        started = report_facts.datetime.now(report_facts.UTC)
        return report_facts.gather(program, [], started=started, commit="0123abc")

    def test_a_gap_of_each_kind_is_an_issue_or_a_recommendation_with_its_place(self):
        seen = Counter({("getUser", 200, None): 3})
        findings = Findings(answers=seen, raced={"logIn"}, access={("GET /livez", "owner"): "200"}, statements=2)
        file = gates.File("shop/security/tokens.py", 80.0, ["41-42", "44->46"])
        facts = self.gathered(findings, [file])
        (issue,) = facts["issues"]
        self.assertIn("placeOrder 422 IDEMPOTENCY_KEY_REUSED: documented, never seen", issue["text"])
        self.assertNotIn("getUser 200", issue["text"])
        self.assertIn("90.0 % of the lines and branches of shop/ were run, and 95 % have to be", issue["text"])
        self.assertIn("shop/security/tokens.py: not run 41-42, 44->46", issue["text"])
        recommended = "\n".join(facts["recommendations"])
        self.assertIn("placeOrder 422 IDEMPOTENCY_KEY_REUSED", recommended)
        self.assertIn("Race placeOrder", recommended)
        self.assertNotIn("Race logIn", recommended)
        self.assertRegex(recommended, r"Go where no test goes in shop/security/tokens.py: \w+ \(41-42, 44->46\)")
        pages = report_pages.render(facts)
        self.assertIn('<td class="seen">3</td>', pages["report.html"])
        self.assertIn('<td class="missed">never</td>', pages["report.html"])
        self.assertIn("| getUser | 1 of ", pages["report.md"])

    def test_lines_and_branches_that_were_not_run_are_put_in_words(self):
        missing = gates._missing([3, 4, 5, 9], [(2, 3), (9, 11), (12, -1), (14, 16)])
        self.assertEqual(["3-5", "9", "12->exit", "14->16"], missing)

    def test_what_a_process_was_writing_when_it_was_killed_is_left_out(self):
        with unmeasured():
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", KILLED],
                cwd=ROOT, capture_output=True, text=True, timeout=LIMIT,
            )  # fmt: skip
        self.assertEqual(("True\n", ""), (done.stdout, done.stderr))

    def test_only_a_run_of_everything_has_to_show_everything(self):
        for arguments, whole in (([], True), (["-v", "-f"], True), (["-k", "x"], False), (["tests.unit"], False)):
            self.assertEqual(whole and Path.cwd() == ROOT, gates.is_whole(arguments), arguments)
