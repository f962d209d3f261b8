"""`scripts/copy-harness`: a service that is unlike the shop takes the kit home, and its tests run there."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.harness.live import LIMIT, ROOT
from tests.harness.postgres import server, setUpModule, tearDownModule

EXAMPLE = ROOT / "tests" / "example"


def copy_harness(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "scripts" / "copy-harness", *arguments], capture_output=True, text=True)


class CopyTest(unittest.TestCase):
    """What the script writes."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory())) / "my-service"
        self.folder.mkdir()

    def test_a_new_project_gets_the_kit_a_template_and_the_next_steps(self):
        done = copy_harness(self.folder)
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        self.assertEqual(5, len(re.findall(r"^\d\. ", done.stdout, re.M)))
        binding = (self.folder / "tests" / "binding.py").read_text()
        compile(binding, "binding.py", "exec")
        self.assertIn('NAME = "my_service"', binding)
        self.assertIn('PREFIX = "MY_SERVICE_TEST_"', binding)
        self.assertTrue((self.folder / "tests" / "__init__.py").exists())
        self.assertEqual([], list((self.folder / "tests" / "harness").rglob("__pycache__")))

    def test_the_template_has_every_name_of_the_binding(self):
        names = {name: Path(path).read_text() for name, path in self.bindings().items()}
        public = {name: set(re.findall(r"^(?:def )?(\w+)(?: = |: set|\()", text, re.M)) for name, text in names.items()}
        self.assertEqual(public["template"], public["project"])
        self.assertEqual(public["template"], public["example"])

    @staticmethod
    def bindings() -> dict[str, Path]:
        return {
            "template": ROOT / "tests" / "harness" / "templates" / "binding.txt",
            "project": ROOT / "tests" / "binding.py",
            "example": EXAMPLE / "tests" / "binding.py",
        }

    def test_a_second_copy_replaces_the_kit_and_keeps_the_binding(self):
        copy_harness(self.folder)
        (self.folder / "tests" / "binding.py").write_text("mine")
        (self.folder / "tests" / "harness" / "old.py").touch()
        done = copy_harness(self.folder)
        self.assertIn("is kept", done.stdout)
        self.assertEqual("mine", (self.folder / "tests" / "binding.py").read_text())
        self.assertFalse((self.folder / "tests" / "harness" / "old.py").exists())

    def test_a_wrong_destination_is_refused_in_a_sentence(self):
        for arguments, said in {
            (): "usage: ",
            ("--help",): "usage: ",
            (self.folder / "missing",): "is no folder",
            (ROOT,): "the project that the kit comes from",
        }.items():
            with self.subTest(said):
                done = copy_harness(*arguments)
                self.assertEqual((2, 1), (done.returncode, done.stderr.count("\n")))
                self.assertIn(said, done.stderr)

    def test_the_kit_names_every_package_that_it_needs(self):
        needed = (ROOT / "tests" / "harness" / "requirements.txt").read_text().splitlines()[1:]
        setup = (ROOT / "setup.py").read_text()
        self.assertEqual([], [each for each in needed if f'"{each}"' not in setup])


class ExampleTest(unittest.TestCase):
    """The second service, with a fresh copy of the kit."""

    time_limit = 5 * LIMIT  # seconds

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "loans"
        shutil.copytree(EXAMPLE, cls.folder, ignore=shutil.ignore_patterns("__pycache__"))
        done = copy_harness(cls.folder)
        assert done.returncode == 0, done.stderr

    def run_tests(self, *arguments: str, module: str = "tests.harness.runner") -> str:
        """Run the example's tests and return what the run prints."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SHOP_", "COVERAGE_"))}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", module, *arguments],
            cwd=self.folder,
            env=inherited | {"LOANS_TEST_DATABASE_URL": server().url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * LIMIT,
        )
        self.assertEqual(0, done.returncode, done.stdout)
        return done.stdout

    def test_its_tests_pass_shuffled_and_in_parallel(self):
        said = self.run_tests("--shuffle=1", "--parallel=2")
        self.assertRegex(said, r"Ran 1\d tests .*\n\nOK")
        self.assertIn("LOANS_TEST_SEED=", said)

    def test_the_sandbox_gives_the_verdicts_of_real_commits(self):
        self.assertRegex(self.run_tests("--parity"), r"parity: 0 of 1\d tests")

    def test_the_report_measures_the_example(self):
        said = self.run_tests("--all", module="tests.harness.report")
        self.assertRegex(said, r"1\d passed, 0 failed, 0 skipped")
        page = (self.folder / "build" / "report" / "report.html").read_text()
        self.assertIn("loans/app.py", page)
        self.assertNotRegex(page, re.compile(r"\bshop\b", re.I))

    def test_it_works_with_unittest_alone(self):
        self.assertRegex(self.run_tests(module="unittest"), r"Ran 1\d tests .*\n\nOK")
