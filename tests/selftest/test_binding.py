"""The kit knows the project only through `tests.binding`."""

import re
import unittest
from pathlib import Path
from unittest import mock

from tests import binding
from tests.harness import gates
from tests.harness.findings import Findings

HARNESS = Path(__file__).resolve().parents[1] / "harness"


class BindingTest(unittest.TestCase):
    """A kit that other projects copy."""

    def test_no_file_of_the_kit_names_the_project(self):
        files = [path for path in HARNESS.rglob("*") if path.suffix in (".py", ".html", ".md")]
        naming = [path.name for path in files if re.search(binding.PACKAGE, path.read_text("utf-8"), re.IGNORECASE)]
        self.assertLess(10, len(files))
        self.assertEqual([], naming)

    def test_docker_is_imported_only_for_a_container(self):
        for path in HARNESS.rglob("*.py"):
            with self.subTest(path.name):
                self.assertNotRegex(path.read_text("utf-8"), r"(?m)^(from|import) (docker|testcontainers)\b")

    def test_the_kit_imports_nothing_of_the_tests_but_itself_and_the_binding(self):
        for path in HARNESS.rglob("*.py"):
            with self.subTest(path.name):
                imported = re.findall(
                    r"^\s*(?:from|import) tests(\S*)(?: import (\w+))?", path.read_text("utf-8"), re.M
                )
                for module, name in imported:
                    self.assertRegex(f"{module} {name}", r"^\.harness\b|^ (binding|harness)$|^\.binding\b")


class PolicyTest(unittest.TestCase):
    """The access matrix of the binding."""

    def test_a_cell_that_no_test_tried_is_a_shortfall(self):
        findings = Findings(access={("GET /a", "owner"): "200"})
        with mock.patch.object(binding, "policy", lambda: {"GET /a": {"owner": "200", "stranger": "404"}}):
            self.assertEqual(["GET /a by stranger: in the access matrix, never tried"], gates.never_tried(findings))

    def test_without_a_matrix_nothing_is_missing(self):
        with mock.patch.object(binding, "policy", lambda: None):
            self.assertEqual([], gates.never_tried(Findings()))
