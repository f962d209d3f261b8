"""The report: the facts and pages of a complete run."""

import tempfile
import unittest
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from tests import binding
from tests.harness import gates, report_pages
from tests.harness.findings import Findings
from tests.harness.report_advice import SHOWN, on_file
from tests.harness.report_facts import Test, gather

ROOT = Path(__file__).resolve().parents[2]
# Code with a gap of each kind.
SOURCE = """
def place(order):
    try:
        return insert(order)
    except LookupError:
        return None

def check(order):
    if not order:
        reason = "empty"
        raise ValueError(reason)

def total(order):
    return sum(order)
"""


def facts_of(findings: Findings, files: Sequence[gates.File] | None, tests: Sequence[Test] = ()) -> dict[str, Any]:
    """Return the facts of a run; a complete one if there are `files`."""
    program = mock.Mock(coverage=None, shortfalls=[], status=1)
    if files is not None:
        program.coverage = gates.CodeCoverage(90.0, 100, 20, files)
        program.shortfalls = gates.shortfalls(findings, program.coverage)
    program.report.findings, program.report.seconds = findings, {test.name: test.seconds for test in tests}
    return gather(program, tests, started=datetime.now(UTC), commit="0123abc")


class FactsTest(unittest.TestCase):
    """What is worked out from the findings of a run."""

    def setUp(self) -> None:
        seen = Counter({("getUser", 200, None): 3})
        self.findings = Findings(
            answers=seen,
            raced={"logIn"},
            received=Counter({"200": 2, "slow": 1}),
            files=Counter({".csv": 3}),
            access={("GET /livez", "owner"): "200"},
            statements=2,
            sandboxes=4,
        )

    def test_a_gap_of_each_kind_is_a_shortfall_and_a_recommendation(self):
        facts = facts_of(self.findings, [gates.File("shop/security/tokens.py", 80.0, ["41-42", "44->46"])])
        shortfalls = "\n".join(facts["shortfalls"])
        self.assertIn("placeOrder 422 IDEMPOTENCY_KEY_REUSED: documented, never seen", shortfalls)
        self.assertNotIn("getUser 200", shortfalls)
        self.assertIn("90.0 % of the lines and branches of shop/ were run, and 95 % have to be", shortfalls)
        self.assertIn("shop/security/tokens.py: not run 41-42, 44->46", shortfalls)
        items = {
            (group["action"].split()[0], item["subject"]): item["detail"]
            for groups in facts["recommendations"].values()
            for group in groups
            for item in group["items"]
        }
        self.assertIn("422 IDEMPOTENCY_KEY_REUSED", items["Test", "placeOrder"])
        self.assertIn(("Send", "placeOrder"), items)
        self.assertNotIn(("Send", "logIn"), items)
        self.assertTrue(any("shop/security/tokens.py, lines 41-42" in detail for detail in items.values()), items)
        pages = report_pages.render(facts)
        self.assertIn('<td class="good">3</td>', pages["report.html"])
        self.assertIn('<td class="bad">0</td>', pages["report.html"])
        self.assertIn("| getUser | 1 of ", pages["report.md"])

    def test_the_scope_names_receivers_and_written_files(self):
        scope = facts_of(self.findings, None)["scope"]
        sent = "The application sent 3 requests to receivers on loopback, which answered: 200, slow."
        self.assertEqual(sent, scope["External services"])
        self.assertEqual("Files in temporary directories: 3 .csv.", scope["Written files"])

    def test_a_partial_run_is_labelled_and_its_gaps_are_neutral(self):
        page = report_pages.render(facts_of(self.findings, None))["report.html"]
        self.assertIn('<span class="tag neutral">Partial run</span>', page)
        self.assertIn('<td class="neutral">0</td>', page)
        self.assertNotIn('<td class="bad">0</td>', page)

    def test_an_uncovered_error_path_ranks_before_an_uncovered_exit(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "orders.py").write_text(SOURCE)
            missing = ["5->exit", "6", "10-11", "14", "9->exit"]
            advice = sorted(on_file("orders.py", missing, Path(folder)))
        self.assertEqual(
            [("check()", "orders.py, lines 10-11, 9->exit"), ("place()", "orders.py, lines 5->exit, 6")],
            [(each.subject, each.detail) for each in advice[:2]],
        )
        self.assertEqual(("total()", "orders.py, line 14"), advice[2][1:3])
        self.assertLess(advice[0].action, advice[2].action)

    def test_ten_recommendations_are_shown_and_the_others_are_folded(self):
        found = facts_of(self.findings, [])["recommendations"]
        items = [len(group["items"]) for group in found["shown"]]
        self.assertEqual(SHOWN, sum(items))
        self.assertTrue(found["folded"])

    def test_flows_are_the_docstrings_of_the_flow_tests(self):
        flow = Test("a.test_flows.A.test_b", "a.test_flows", "A", "A user orders.", "passed", 1.0, "")
        other = Test("a.test_x.A.test_b", "a.test_x", "A", "Something else.", "passed", 1.0, "")
        facts = facts_of(self.findings, None, [flow, other])
        self.assertEqual(["A user orders."], facts["flows"])
        self.assertIn("<li>A user orders.</li>", report_pages.render(facts)["report.html"])

    def test_the_number_of_sandboxes_is_in_the_report(self):
        facts = facts_of(self.findings, None)
        self.assertEqual(4, facts["time"]["sandboxes"])
        self.assertIn("The sandbox was entered 4 times", report_pages.render(facts)["report.md"])

    def test_the_environment_has_the_versions_that_the_binding_names(self):
        packages = facts_of(self.findings, None)["environment"]["Packages"]
        self.assertRegex(packages, rf"\b{binding.REQUIREMENTS[0]} \d")

    def test_missing_lines_and_branches_are_written_as_ranges_and_arrows(self):
        missing = gates._missing([3, 4, 5, 9], [(2, 3), (9, 11), (12, -1), (14, 16)])
        self.assertEqual(["3-5", "9", "12->exit", "14->16"], missing)

    def test_only_a_run_of_all_tests_is_complete(self):
        for arguments, whole in (([], True), (["-v", "-f"], True), (["-k", "x"], False), (["tests.unit"], False)):
            self.assertEqual(whole and Path.cwd() == ROOT, gates.is_whole(arguments), arguments)
