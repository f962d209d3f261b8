"""The kit knows the project only through `tests.binding`."""

import re
import unittest
from pathlib import Path

from tests import binding

HARNESS = Path(__file__).resolve().parents[1] / "harness"


class BindingTest(unittest.TestCase):
    """A kit that other projects copy."""

    def test_no_file_of_the_kit_names_the_project(self):
        files = [path for path in HARNESS.rglob("*") if path.suffix in (".py", ".html", ".md")]
        naming = [path.name for path in files if re.search(binding.PACKAGE, path.read_text("utf-8"), re.IGNORECASE)]
        self.assertLess(10, len(files))
        # Until the sandbox works at the driver.
        self.assertEqual(["sandbox.py"], naming)

    def test_the_kit_imports_nothing_of_the_tests_but_itself_and_the_binding(self):
        for path in HARNESS.rglob("*.py"):
            with self.subTest(path.name):
                imported = re.findall(
                    r"^\s*(?:from|import) tests(\S*)(?: import (\w+))?", path.read_text("utf-8"), re.M
                )
                for module, name in imported:
                    self.assertRegex(f"{module} {name}", r"^\.harness\b|^ (binding|harness)$|^\.binding\b")
