"""`scripts/mutants.toml` names files and tests that exist, and has a reason for each listed survivor."""

import tomllib
import unittest
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class SettingsTest(unittest.TestCase):
    def setUp(self):
        settings = tomllib.loads((ROOT / "scripts/mutants.toml").read_text("utf-8"))
        self.tests, self.equivalent = settings["tests"], settings.get("equivalent", ())

    def test_each_file_and_each_module_of_tests_exists(self):
        for file, modules in self.tests.items():
            with self.subTest(file):
                self.assertTrue((ROOT / file).is_file())
                self.assertEqual([], [module for module in modules if find_spec(module) is None])

    def test_each_listed_survivor_is_a_change_of_a_file_and_has_a_reason(self):
        for survivor in self.equivalent:
            with self.subTest(survivor["change"]):
                self.assertIn(survivor["file"], self.tests)
                self.assertTrue(survivor["reason"])
                lines = map(str.strip, (ROOT / survivor["file"]).read_text("utf-8").splitlines())
                self.assertNotIn(survivor["change"], lines, "a mutant changes the line")
