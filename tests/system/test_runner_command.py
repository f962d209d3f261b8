"""The command `scripts/test`, on small packages of tests that are thrown away."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.harness import results
from tests.harness.gates import unmeasured
from tests.harness.live import LIMIT, ROOT

THROWN_AWAY = {
    "fine/test_fine.py": """
        import unittest

        class FineTest(unittest.TestCase):
            def test_one(self): pass

            def test_two(self): print("said on the way")

            @unittest.skip("because")
            def test_skipped(self): pass

            @unittest.expectedFailure
            def test_expected(self): self.fail()
        """,
    "fine/test_bad.py": """
        import unittest
        from tests.harness.order import order_options

        class BadTest(unittest.TestCase):
            def test_failure(self):
                self.fail("a failure's text")

            def test_subtests(self):
                for number in range(3):
                    with self.subTest(number=number):
                        self.assertEqual(0, number % 2)

            def test_it_knows_the_order(self):
                self.assertEqual("--shuffle=7", order_options())
        """,
    "slow/__init__.py": """
        from tests.harness import tiers

        load_tests = tiers.slow(__name__, __path__)
        """,
    "slow/test_slow.py": """
        import unittest

        class SlowTest(unittest.TestCase):
            def test_it(self): self.fail("it is left out")
        """,
}

folder: Path  # where the packages are


def setUpModule() -> None:
    global folder  # noqa: PLW0603 - unittest's module fixture has no other place
    folder = Path(tempfile.mkdtemp(prefix="runner-"))
    unittest.addModuleCleanup(shutil.rmtree, folder)
    for name, text in THROWN_AWAY.items():
        lines = text.strip("\n").splitlines()
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text("\n".join(line.removeprefix(" " * 8) for line in lines) + "\n")


def start(*arguments: str, module: str = "tests.harness.runner") -> "subprocess.Popen[str]":
    """Start the runner on the packages, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str, module: str = "tests.harness.runner") -> "subprocess.CompletedProcess[str]":
    """Run the runner on the packages to its end."""
    with start(*arguments, module=module) as process:
        stdout, stderr = process.communicate(timeout=LIMIT)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


class RunTest(unittest.TestCase):
    """What a run prints."""

    @classmethod
    def setUpClass(cls):
        cls.enterClassContext(unmeasured())
        cls.bad = run("--parallel=2", "--shuffle=7", "--durations=3", "-v", "fine")

    def test_failures_are_shown_and_counted(self):
        self.assertEqual(results.FAILED, self.bad.returncode)
        self.assertRegex(self.bad.stderr, r", in test_failure\n(.*\n)+?.*a failure's text\n")
        self.assertEqual(["1"], re.findall(r"FAIL: test_subtests \(.*\) \(number=(\d)\)", self.bad.stderr))
        self.assertRegex(self.bad.stderr, r"FAILED \(failures=\d, skipped=1, expected failures=1\)")

    def test_the_order_is_known_in_workers_and_printed_once(self):
        self.assertRegex(self.bad.stderr, r"test_it_knows_the_order \(.*\) \.\.\. ok")
        self.assertEqual(1, self.bad.stderr.count("(repeat with --shuffle=7 --parallel=2)"))

    def test_skipped_tests_are_listed_with_their_reasons_at_the_end(self):
        self.assertRegex(self.bad.stderr, r"FAILED(.*\n)+skipped: fine.test_fine.FineTest.test_skipped: because\n")

    def test_the_slowest_are_shown(self):
        self.assertRegex(self.bad.stderr, r"slowest:\n( +\d+\.\d{3} s  .*\n){3}")

    def test_output_of_a_worker_is_shown(self):
        self.assertIn("said on the way", self.bad.stdout)

    def test_without_our_options_it_prints_what_unittest_prints(self):
        arguments = ("discover", "-k", "fine", "-k", "test_subtests", "-p", "test_[bf]*.py")
        ours, plain = run(*arguments), run(*arguments, module="unittest")
        self.assertEqual(1, ours.returncode)
        self.assertIn("Ran 7 tests", ours.stderr)

        # Python 3.12.1 does not count skipped tests.
        varying = r"Ran \d tests|in [\d.]+s|skipped: .*\n"

        def bare(ended: "subprocess.CompletedProcess[str]") -> tuple[int, str, str]:
            return ended.returncode, ended.stdout, re.sub(varying, "", ended.stderr)

        self.assertEqual(bare(plain), bare(ours))
        self.assertRegex(plain.stderr, r"not run: slow \(scripts/test --all\)\n$")
