"""The runner behind `scripts/test` keeps what `--help` promises, on small packages of tests that are thrown away."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from tests.harness import results, runner
from tests.harness.findings import Findings
from tests.harness.parallel import spread

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30.0  # seconds; nothing here takes that long, so only a broken promise gets there

THROWN_AWAY = {
    "fine": """
        import unittest

        class FineTest(unittest.TestCase):
            def test_one(self): pass

            def test_two(self): print("said on the way")

            @unittest.skip("because")
            def test_skipped(self): pass

            @unittest.expectedFailure
            def test_expected(self): self.fail()
        """,
    "bad": """
        import os, sys, unittest
        from tests.harness.runner import order_options

        class BadTest(unittest.TestCase):
            def test_failure_with_a_note(self):
                try:
                    self.fail("a failure's text")
                except AssertionError as error:
                    error.add_note("a failure's note")
                    raise

            def test_subtests(self):
                for number in range(3):
                    with self.subTest(number=number):
                        self.assertEqual(0, number % 2)

            def test_it_knows_the_order(self):
                self.assertEqual("--shuffle=7", order_options())

        class FixtureTest(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                raise RuntimeError("a fixture's text")

            def test_never_reached(self): pass

        class DyingTest(unittest.TestCase):
            def test_dying(self): os._exit(7)

        class AloneTest(unittest.TestCase):
            parallel = False  # It asks for the parent's process.

            def test_alone(self): self.fail(f"alone in {os.getpid()}")
        """,
    "ordered": """
        import unittest

        seen = set()

        class ATest(unittest.TestCase):
            def test_guilty(self): seen.add("guilty")

            def test_innocent(self): pass

        class BTest(unittest.TestCase):
            def test_victim(self): self.assertNotIn("guilty", seen)
        """,
    "waiting": """
        import os, signal, unittest

        class WaitingTest(unittest.TestCase):
            def test_before(self): pass

            def test_waiting(self):
                print(os.getpid(), flush=True)
                signal.pause()
        """,
}

folder: Path  # where the packages are


def setUpModule() -> None:
    global folder  # noqa: PLW0603 - unittest's module fixture has no other place
    folder = Path(tempfile.mkdtemp(prefix="shop-runner-"))
    unittest.addModuleCleanup(shutil.rmtree, folder)
    for name, text in THROWN_AWAY.items():
        lines = text.strip("\n").splitlines()
        (folder / f"test_{name}.py").write_text("\n".join(line.removeprefix(" " * 8) for line in lines) + "\n")


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


def make_class(module: str, name: str, *methods: str, **attributes: Any) -> type[unittest.TestCase]:
    """Return a class of tests that pass, as if it stood in `module`."""
    body = {"__module__": module, "__qualname__": name, **attributes}
    return type(name, (unittest.TestCase,), body | dict.fromkeys(methods, lambda self: None))


def make_tests() -> list[unittest.TestCase]:
    """Return 60 tests: five modules of three classes of four tests."""
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
        self.assertEqual(names(runner.shuffled(tests, "7")), names(runner.shuffled(tests[::-1], "7")))
        self.assertEqual(set(names(tests)), set(names(runner.shuffled(tests, "7"))))

    def test_another_seed_is_another_order_at_each_level(self):
        orders = [names(runner.shuffled(make_tests(), seed)) for seed in "1234567"]
        for level in (1, 2, 3):
            firsts = {tuple(dict.fromkeys(".".join(name.split(".")[:level]) for name in order)) for order in orders}
            with self.subTest(level=level):
                self.assertGreater(len(firsts), 1)

    def test_modules_and_classes_stay_together(self):
        order = [name.split(".") for name in names(runner.shuffled(make_tests(), "7"))]
        for level, groups in ((1, 5), (2, 15)):
            changes = [
                name for name, before in zip(order, [[], *order], strict=False) if name[:level] != before[:level]
            ]
            with self.subTest(level=level):
                self.assertEqual(groups, len(changes))

    def test_fewer_tests_keep_the_order_that_they_have_among_all(self):
        tests = make_tests()
        for few in (tests[::7], tests[20:40], tests[:2]):
            among_all = [name for name in names(runner.shuffled(tests, "7")) if name in names(few)]
            self.assertEqual(among_all, names(runner.shuffled(few, "7")))

    def test_the_option_that_repeats_the_order_can_be_pasted_into_a_shell(self):
        for seed, option in (("7", "--shuffle=7"), ("a b", "--shuffle='a b'"), ("", "")):
            with self.subTest(seed), mock.patch.dict(os.environ, {runner.SHUFFLE: seed}):
                self.assertEqual(option, runner.order_options())


class ParallelTest(unittest.TestCase):
    """`--parallel`."""

    @classmethod
    def setUpClass(cls):
        cls.bad = run("--parallel=2", "--shuffle=7", "--durations=3", "-v", "test_bad", "test_fine")

    def test_a_failure_arrives_whole(self):
        self.assertEqual(results.FAILED, self.bad.returncode)
        self.assertRegex(
            self.bad.stderr, r"line 7, in test_failure_with_a_note\n(.*\n)+?.*a failure's text\na failure's note"
        )

    def test_each_failed_subtest_arrives(self):
        self.assertEqual(["1"], re.findall(r"FAIL: test_subtests \(.*\) \(number=(\d)\)", self.bad.stderr))

    def test_a_failed_fixture_is_told_by_name(self):
        self.assertRegex(self.bad.stderr, r"ERROR: setUpClass \(test_bad.FixtureTest\)\n(.*\n)+?.*a fixture's text")

    def test_a_worker_that_dies_fails_its_class_by_name_and_the_rest_goes_on(self):
        self.assertRegex(self.bad.stderr, r"ERROR: test_bad.DyingTest\n.*\n.* ended with status 7, during .*test_dying")
        self.assertIn("Ran 8 tests", self.bad.stderr)

    def test_every_kind_of_verdict_is_counted(self):
        self.assertIn("FAILED (failures=3, errors=2, skipped=1, expected failures=1)", self.bad.stderr)

    def test_the_order_is_known_in_workers(self):
        self.assertIn("test_it_knows_the_order (test_bad.BadTest.test_it_knows_the_order) ... ok", self.bad.stderr)
        self.assertEqual(1, self.bad.stderr.count("shuffled with seed 7"))

    def test_what_says_so_runs_in_the_parent_after_all_others(self):
        self.assertRegex(self.bad.stderr, r"\.\.\. FAIL\n\n=====")
        self.assertIn("test_alone", self.bad.stderr[: self.bad.stderr.index("=====")].splitlines()[-2])

    def test_the_slowest_are_shown(self):
        self.assertRegex(self.bad.stderr, r"slowest:\n( +\d+\.\d{3} s  .*\n){3}$")

    def test_what_printed_in_a_worker_is_seen(self):
        self.assertIn("said on the way", self.bad.stdout)

    def test_ctrl_c_ends_all_at_once_and_shows_the_results_so_far(self):
        with start("-v", "--parallel", "test_waiting") as process:
            worker = psutil.Process(int(process.stdout.readline()))
            self.assertRegex(process.stderr.readline(), r"^test_before .* ok$")
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=LIMIT)
        self.assertEqual(results.INTERRUPTED, process.returncode)
        self.assertFalse(worker.is_running())
        self.assertRegex(stderr, r"Ran 1 test(.*\n)+.*interrupted")
        self.assertNotIn("Traceback", stderr)

    def test_the_longest_known_class_comes_first_and_an_unknown_one_counts_by_its_size(self):
        short, long, large = (
            make_class(__name__, name, *(f"test_{number}" for number in range(size)))
            for name, size in (("ShortTest", 1), ("LongTest", 1), ("LargeTest", 9))
        )
        with mock.patch.multiple(sys.modules[__name__], create=True, ShortTest=short, LongTest=long, LargeTest=large):
            tests = [
                kind(f"test_{number}") for kind, size in ((short, 1), (large, 9), (long, 1)) for number in range(size)
            ]
            groups, alone = spread(tests, {f"{__name__}.LongTest.test_0": 5.0})
        self.assertEqual(["LongTest", "LargeTest", "ShortTest"], [type(group[0]).__name__ for group in groups])
        self.assertEqual([], alone)

    def test_what_no_other_process_would_find_stays_here(self):
        made_here = make_class(__name__, "NowhereTest", "test_it")("test_it")
        no_module = next(runner.flatten(unittest.TestLoader().loadTestsFromName("test_nowhere")))
        function = unittest.FunctionTestCase(lambda: None)
        self.assertEqual(([], [made_here, no_module, function]), spread([made_here, no_module, function], {}))


class BisectTest(unittest.TestCase):
    """`--bisect`."""

    def test_the_pair_is_printed_with_the_line_that_repeats_it(self):
        ended = run("--bisect", "test_ordered.BTest.test_victim", "test_ordered")
        self.assertEqual(results.FAILED, ended.returncode)
        line = "scripts/test test_ordered.ATest.test_guilty test_ordered.BTest.test_victim"
        self.assertEqual(
            ["  test_ordered.ATest.test_guilty", "repeat it with:", f"  {line}"], ended.stderr.splitlines()[-3:]
        )

    def test_a_test_that_fails_alone_is_said_to(self):
        ended = run("--bisect", "test_bad.AloneTest.test_alone", "test_bad")
        self.assertEqual(results.FAILED, ended.returncode)
        self.assertIn("it fails alone", ended.stderr)


class CommandLineTest(unittest.TestCase):
    """What the command takes, prints and ends with."""

    def test_without_our_options_it_does_what_unittest_does(self):
        arguments = ("discover", "-v", "-k", "fine", "-k", "test_subtests", "-p", "test_[bf]*.py")
        ours, plain = run(*arguments), run(*arguments, module="unittest")
        self.assertEqual(1, ours.returncode)
        self.assertIn("test_one (test_fine.FineTest.test_one) ... ok", ours.stderr)

        def bare(ended: "subprocess.CompletedProcess[str]") -> tuple[int, str, str]:
            return ended.returncode, ended.stdout, re.sub(r"in [\d.]+s", "", ended.stderr)

        self.assertEqual(bare(plain), bare(ours))

    def test_what_is_not_ours_goes_to_unittest_in_its_order(self):
        arguments = shlex.split("-k a --shuffle x -v --parallel=3 y --durations 5 -s there -- --shuffle")
        own, rest = runner.parse(arguments)
        self.assertEqual(shlex.split("-k a x -v y -s there -- --shuffle"), rest)
        self.assertEqual((3, 5), (own.parallel, own.durations))
        self.assertTrue(own.shuffle.isdecimal(), "a seed is made; the next word is a test's name")

    def test_wrong_options_are_answered_with_one_sentence_and_status_2(self):
        for arguments in (
            ["--parallel=x"],
            ["--parallel=0"],
            ["--durations"],
            ["--parity", "--parallel"],
            ["--bisect"],
        ):
            with self.subTest(arguments), mock.patch("sys.stderr") as stderr:
                with self.assertRaises(SystemExit) as ended:
                    runner.parse(arguments)
                said = "".join(call.args[0] for call in stderr.write.call_args_list)
                self.assertEqual(results.WRONG_OPTIONS, ended.exception.code)
                self.assertRegex(said, r"\Ascripts/test: .*--.*\n\Z")

    def test_help_names_every_option_of_ours_before_those_of_unittest(self):
        ended = run("--help")
        self.assertEqual(0, ended.returncode)
        ours, theirs = ended.stdout.split("usage: scripts/test", 1)
        for option in ("--shuffle", "--parallel", "--durations", "--bisect", "--parity"):
            self.assertIn(f"\n  {option}", ours)
        self.assertIn("--failfast", theirs)

    def test_a_run_without_tests_is_not_a_success(self):
        self.assertEqual(results.NO_TESTS, run("-k", "no_such_test", "test_fine").returncode)

    def test_the_cost_of_the_sandbox_is_printed_with_that_of_the_workers(self):
        result = results.Result(mock.Mock(), descriptions=False, verbosity=0)
        result.findings = Findings(sandboxes=3, seconds=Counter({("tests", "sandbox"): 0.002}))
        result.findings.add(Findings(sandboxes=1, seconds=Counter({("fixtures", "sandbox"): 0.002})))
        with mock.patch.object(runner, "say") as say:
            runner.say_cost(result)
        say.assert_called_once_with("sandbox: 4 tests, 1.00 ms each to enter and leave")
