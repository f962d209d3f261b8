"""The command line of `scripts/test`, on small packages of tests that are thrown away."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

from tests.harness import order, results, runner
from tests.harness.findings import Findings

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30.0  # seconds; only a broken promise takes that long

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


def make_tests() -> list[unittest.TestCase]:
    """Return 60 tests: five modules of three classes of four tests."""

    def make_class(module: str, name: str, method: str) -> type[unittest.TestCase]:
        body: dict[str, Any] = {"__module__": module, "__qualname__": name, method: lambda self: None}
        return type(name, (unittest.TestCase,), body)

    return [
        make_class(f"test_{module}", f"{kind}Test", f"test_{number}")(f"test_{number}")
        for module in "abcde"
        for kind in ("One", "Two", "Three")
        for number in range(4)
    ]


def names(tests: list[unittest.TestCase]) -> list[str]:
    return [test.id() for test in tests]


class ShuffleTest(unittest.TestCase):
    """`--shuffle`."""

    def test_one_seed_is_one_order_whatever_the_order_before(self):
        tests = make_tests()
        self.assertEqual(names(order.shuffled(tests, "7")), names(order.shuffled(tests[::-1], "7")))
        self.assertEqual(set(names(tests)), set(names(order.shuffled(tests, "7"))))

    def test_another_seed_is_another_order_at_each_level(self):
        orders = [names(order.shuffled(make_tests(), seed)) for seed in "1234567"]
        for level in (1, 2, 3):
            firsts = {tuple(dict.fromkeys(".".join(name.split(".")[:level]) for name in each)) for each in orders}
            with self.subTest(level=level):
                self.assertGreater(len(firsts), 1)

    def test_modules_and_classes_stay_together(self):
        found = [name.split(".") for name in names(order.shuffled(make_tests(), "7"))]
        for level, groups in ((1, 5), (2, 15)):
            changes = [
                name for name, before in zip(found, [[], *found], strict=False) if name[:level] != before[:level]
            ]
            with self.subTest(level=level):
                self.assertEqual(groups, len(changes))

    def test_a_selection_keeps_the_order_of_the_whole_run(self):
        tests = make_tests()
        for few in (tests[::7], tests[20:40], tests[:2]):
            among_all = [name for name in names(order.shuffled(tests, "7")) if name in names(few)]
            self.assertEqual(among_all, names(order.shuffled(few, "7")))

    def test_the_option_that_repeats_the_order_can_be_pasted(self):
        for seed, option in (("7", "--shuffle=7"), ("a b", "--shuffle='a b'"), (None, "")):
            with self.subTest(seed), mock.patch.object(order, "seed", seed):
                self.assertEqual(option, order.order_options())


class RunTest(unittest.TestCase):
    """What a run prints."""

    @classmethod
    def setUpClass(cls):
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


class CommandLineTest(unittest.TestCase):
    """What the command takes."""

    def test_other_options_go_to_unittest_in_their_order(self):
        arguments = shlex.split("-k a --shuffle x -v --parallel=3 y --durations 5 -s there -- --shuffle")
        own, rest = runner.parse(arguments)
        self.assertEqual(shlex.split("-k a x -v y -s there -- --shuffle"), rest)
        self.assertEqual((3, 5), (own.parallel, own.durations))
        self.assertTrue(own.shuffle.isdecimal(), "a seed is made; the next word is a test's name")

    def test_wrong_options_get_one_sentence_and_status_2(self):
        for arguments in (
            ["--parallel=x"],
            ["--parallel=0"],
            ["--durations"],
            ["--limit=soon"],
            ["--bisect", "x", "--parallel"],
            ["--bisect"],
        ):
            with self.subTest(arguments), mock.patch("sys.stderr") as stderr:
                with self.assertRaises(SystemExit) as ended:
                    runner.parse(arguments)
                said = "".join(call.args[0] for call in stderr.write.call_args_list)
                self.assertEqual(results.WRONG_OPTIONS, ended.exception.code)
                self.assertRegex(said, r"\Ascripts/test: .*--.*\n\Z")

    def test_help_names_each_of_our_options(self):
        with mock.patch("sys.stdout", io.StringIO()) as stdout:
            own, rest = runner.parse(["--help"])
        self.assertEqual(["--help"], rest)
        for option in (f"--{name.replace('_', '-')}" for name in vars(own)):
            self.assertIn(f"\n  {option}", stdout.getvalue())

    def test_a_run_without_tests_is_not_a_success(self):
        result = unittest.TestResult()
        with mock.patch.object(results, "say"):
            self.assertEqual(results.NO_TESTS, results.status_of(result))
        result.addSkip(self, "a reason")
        self.assertEqual(results.PASSED, results.status_of(result))

    def test_the_cost_of_the_sandbox_includes_that_of_the_workers(self):
        result = results.Result(mock.Mock(), descriptions=False, verbosity=0)
        result.findings = Findings(sandboxes=3, seconds=Counter({("tests", "sandbox"): 0.002}))
        result.findings.add(Findings(sandboxes=1, seconds=Counter({("fixtures", "sandbox"): 0.002})))
        with mock.patch.object(results, "say") as say:
            results.say_cost(result)
        say.assert_called_once_with("sandbox: 4 tests, 1.00 ms each to enter and leave")
