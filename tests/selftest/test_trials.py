"""`tests.harness.trials`: which tests are found guilty of another's failure, and what counts as another verdict."""

import io
import re
import unittest
from collections.abc import Sequence
from typing import Any
from unittest import mock

from tests.harness import results
from tests.harness.order import Plan
from tests.harness.trials import bisect, culprits, parity
from tests.harness.workers import Workers


class CulpritsTest(unittest.TestCase):
    """The search behind `--bisect`; `test_runner` has the option itself."""

    def find(self, *guilty: int) -> tuple[Any, int]:
        """Return what is found among 100 when all of `guilty` are needed, and the number of trials."""
        trials = []

        def fails(part: Any) -> bool:
            self.assertEqual(sorted(part), list(part), "a trial keeps the order")
            trials.append(part)
            return set(guilty) <= set(part)

        return culprits(tuple(range(100)), fails), len(trials)

    def test_one_culprit_is_found_by_halving(self):
        for guilty in (0, 1, 50, 99):
            found, trials = self.find(guilty)
            self.assertEqual((guilty,), found)
            self.assertLessEqual(trials, 8)

    def test_several_that_are_needed_together_are_found_and_no_others(self):
        for guilty in ((0, 99), (3, 4, 5), (10, 50, 90)):
            self.assertEqual(guilty, self.find(*guilty)[0])

    def test_trials_that_contradict_each_other_are_given_up(self):
        self.assertIsNone(culprits((1, 2, 3), lambda part: False))


class BisectTest(unittest.TestCase):
    """`--bisect`."""

    def bisect(self, name: str) -> tuple[int, list[str]]:
        """Return the status and the output of the search for what makes a test of these two classes fail."""
        seen: set[str] = set()

        class ATest(unittest.TestCase):
            def test_guilty(self):
                seen.add("guilty")

            def test_innocent(self):
                pass

        class BTest(unittest.TestCase):
            def test_failing(self):
                self.fail()

            def test_victim(self):
                self.assertEqual(set(), seen)

        for kind in (ATest, BTest):
            kind.__qualname__, kind.__module__ = kind.__name__, "ordered"
        tests = [kind(name) for kind in (ATest, BTest) for name in dir(kind) if name.startswith("test_")]
        said: list[str] = []
        with mock.patch("tests.harness.trials.say", lambda *lines: said.extend(lines)):
            workers = lambda part: Workers(Plan(part, 1, {}, fixed=False), {}, 30.0)  # noqa: E731
            status = bisect(name, tests, workers)
        return status, said

    def test_the_pair_is_printed_with_the_line_that_repeats_it(self):
        status, said = self.bisect("ordered.BTest.test_victim")
        self.assertEqual(results.FAILED, status)
        self.assertEqual("  ordered.ATest.test_guilty", said[-3])
        self.assertRegex(said[-1], r"scripts/test ordered.ATest.test_guilty ordered.BTest.test_victim$")

    def test_a_test_that_fails_alone_is_named(self):
        self.assertIn("it fails alone: no other test is needed", self.bisect("ordered.BTest.test_failing")[1])

    def test_a_name_that_was_not_selected_is_refused(self):
        self.assertEqual(results.WRONG_OPTIONS, self.bisect("ordered.BTest.test_nothing")[0])


class ParityTest(unittest.TestCase):
    """`--parity`."""

    def compare(self, *kinds: type[unittest.TestCase]) -> tuple[int, str]:
        """Return status and output of a parity run; the tests see the isolation as their `mode`."""
        said: list[str] = []
        for kind in kinds:
            # Run as tests of this module they would have its fixtures, and tear them down.
            kind.__module__ = "thrown_away"

        def run(mode: str, tests: Sequence[unittest.TestCase]) -> results.Result:
            for kind in kinds:
                kind.mode = mode
            result = results.Result(unittest.runner._WritelnDecorator(io.StringIO()), descriptions=False, verbosity=0)
            Workers(Plan(tests, 1, {}, fixed=False), {}, 30.0).run(result)
            return result

        tests = [kind(name) for kind in kinds for name in dir(kind) if name.startswith("test_")]
        with mock.patch("tests.harness.trials.say", lambda *lines: said.extend(lines)):
            status = parity(tests, {"sandbox": "in the sandbox", "commit": "with real commits"}, run)
        return status, "\n".join(said)

    def test_the_same_verdicts_are_parity(self):
        class FineTest(unittest.TestCase):
            def test_it(self):
                self.assertIn(self.mode, ("sandbox", "commit"))

        status, said = self.compare(FineTest)
        self.assertEqual(results.PASSED, status)
        self.assertIn("0 of 1 tests", said)

    def test_a_difference_of_any_kind_fails_and_names_both_verdicts(self):
        class DifferentTest(unittest.TestCase):
            def test_failing(self):
                self.assertEqual("commit", self.mode)

            def test_raising(self):
                if self.mode == "commit":
                    raise RuntimeError

            def test_skipping(self):
                if self.mode == "commit":
                    self.skipTest("it says")

            def test_subtests(self):
                for number in range(3):
                    with self.subTest(number=number):
                        self.assertFalse(number == 1 and self.mode == "commit")

            def test_fine(self):
                pass

        status, said = self.compare(DifferentTest)
        self.assertEqual(results.FAILED, status)
        self.assertIn("4 of 5 tests", said)
        for name, sandbox, commit in (
            ("failing", "failed", "passed"),
            ("raising", "passed", "error"),
            ("skipping", "passed", "skipped"),
            ("subtests", "passed", "failed (number=1)"),
        ):
            with self.subTest(name):
                pattern = rf"\.test_{name}\n +in the sandbox: {sandbox}\n +with real commits: {re.escape(commit)}(\n|$)"
                self.assertRegex(said, pattern)

    def test_a_test_that_did_not_run_in_one_of_them_is_a_difference(self):
        class FixtureTest(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                if cls.mode == "commit":
                    raise RuntimeError

            def test_it(self):
                pass

        status, said = self.compare(FixtureTest)
        self.assertEqual(results.FAILED, status)
        self.assertRegex(said, r"test_it\n +in the sandbox: passed\n +with real commits: did not run")

    def test_a_test_that_fails_both_times_is_no_difference_but_fails_the_run(self):
        class BadTest(unittest.TestCase):
            def test_it(self):
                self.fail()

        status, said = self.compare(BadTest)
        self.assertEqual(results.FAILED, status)
        self.assertIn("0 of 1 tests", said)

    def test_a_class_that_says_why_is_left_out_and_listed(self):
        class FineTest(unittest.TestCase):
            def test_it(self):
                pass

        class LeftOutTest(unittest.TestCase):
            not_in_parity_because = "it is about the sandbox"

            def test_it(self):
                self.fail()

        status, said = self.compare(FineTest, LeftOutTest)
        self.assertEqual(results.PASSED, status)
        self.assertRegex(said, r"leaves out .*LeftOutTest: it is about the sandbox")
