"""`tests.harness.workers`: every verdict arrives, whatever happens to the process of a test."""

import io
import multiprocessing
import os
import re
import signal
import sys
import time
import unittest
from collections.abc import Sequence
from typing import Any
from unittest import mock

from tests.harness import order, tiers, worker
from tests.harness.findings import Findings, findings
from tests.harness.order import Plan
from tests.harness.results import FIXTURES, Result
from tests.harness.workers import Workers


def suite_of(*kinds: type[unittest.TestCase]) -> list[unittest.TestCase]:
    """Return the tests of classes."""
    return list(order.flatten(unittest.defaultTestLoader.loadTestsFromTestCase(kind) for kind in kinds))


def run(
    tests: Sequence[unittest.TestCase], processes: int = 2, *, limit: float = 30.0, fixed: bool = False, **options: bool
) -> Result:
    """Run tests in workers; return the result."""
    result = Result(unittest.runner._WritelnDecorator(io.StringIO()), descriptions=False, verbosity=2)
    result.findings = Findings()
    result.failfast = options.get("failfast", False)
    Workers(Plan(tests, processes, {}, fixed=fixed), options, limit).run(result)
    return result


def reporter_of(test: unittest.TestCase) -> Any:
    """Return the result of a running test in its worker."""
    return test._outcome.result


def texts(result: Result) -> dict[str, str]:
    """Return the texts of failures and errors by name."""
    return {test.id().removeprefix(f"{__name__}."): text for test, text in result.failures + result.errors}


class Verdicts:
    """Classes that the tests here run; unittest does not find them in here."""

    class Kinds(unittest.TestCase):
        def test_passed(self):
            pass

        def test_failed(self):
            try:
                self.fail("the text")
            except AssertionError as error:
                error.add_note("the note")
                raise

        def test_error(self):
            raise RuntimeError("the error")

        @unittest.skip("the reason")
        def test_skipped(self):
            pass

        @unittest.expectedFailure
        def test_expected(self):
            self.fail()

        @unittest.expectedFailure
        def test_unexpected(self):
            pass

        def test_subtests(self):
            for number in range(4):
                with self.subTest(number=number):
                    if number == 3:
                        self.skipTest("three")
                    self.assertEqual(0, number % 2)

    class Fixture(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            raise RuntimeError("the fixture's error")

        def test_never(self):
            pass

    class Noting(unittest.TestCase):
        def test_noting(self):
            findings.statements += 1

    class Dying(unittest.TestCase):
        def test_a_before(self):
            pass

        def test_b_dying(self):
            os._exit(7)

        def test_c_after(self):
            pass

    class Forking(unittest.TestCase):
        def test_a_fork_that_leaves_the_test(self):
            if (child := os.fork()) == 0:
                sys.stderr = io.StringIO()
                self.fail("in the fork")
            self.assertEqual(1, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        def test_b_after(self):
            pass

    class DyingFixture(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_never(self):
            pass

    class Hanging(unittest.TestCase):
        time_limit = 0.2

        def test_a_hanging(self):
            time.sleep(60)

        def test_b_after(self):
            pass

    class HangingAtTheEnd(unittest.TestCase):
        @classmethod
        def tearDownClass(cls):
            time.sleep(60)

        def test_it(self):
            pass

    class Outlived(unittest.TestCase):
        pipe = (-1, -1)

        def test_it(self):
            if os.fork() == 0:
                reading, writing = self.pipe
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            os._exit(7)

    class ForkingFixture(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            if (child := os.fork()) == 0:
                sys.stderr = io.StringIO()
                raise RuntimeError("in the fork")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1

        def test_it(self):
            pass

    class Twice(unittest.TestCase):
        def test_it(self):
            reporter_of(self).report("started")
            time.sleep(60)

    class Stopping(unittest.TestCase):
        def test_a(self):
            reporter_of(self).stop()

        def test_b(self):
            pass

    class Garbage(unittest.TestCase):
        def test_it(self):
            reporter_of(self)._connection.send_bytes(b"garbage")
            time.sleep(60)

    class Number(unittest.TestCase):
        number = None

        def test_number(self):
            self.assertIsNotNone(self.number)

    class First(unittest.TestCase):
        def test_it(self):
            pass

    class Second(unittest.TestCase):
        def test_it(self):
            self.fail()


class VerdictTest(unittest.TestCase):
    """What the parent learns."""

    def test_every_kind_of_verdict_arrives(self):
        name = f"{__name__}.Verdicts.Kinds.test_"
        expected = {
            "passed": [("passed", "")],
            "failed": [("failed", "")],
            "error": [("error", "")],
            "skipped": [("skipped", "")],
            "expected": [("failed as expected", "")],
            "unexpected": [("passed unexpectedly", "")],
            "subtests": [("failed", " (number=1)"), ("skipped", " (number=3)")],
        }
        for processes in (1, 2):
            result = run(suite_of(Verdicts.Kinds), processes)
            with self.subTest(processes=processes):
                self.assertEqual(expected, {each.removeprefix(name): found for each, found in result.verdicts.items()})
                self.assertEqual((2, 1, 2), (len(result.failures), len(result.errors), len(result.skipped)))
                self.assertRegex(texts(result)["Verdicts.Kinds.test_failed"], "the text\nthe note")
                self.assertEqual(8, len(result.seconds))
                self.assertIn(f"{FIXTURES}{__name__}.Verdicts.Kinds", result.seconds)

    def test_a_failing_fixture_loses_no_result_when_output_is_buffered(self):
        result = run(suite_of(Verdicts.Fixture, Verdicts.First), buffer=True)
        (text,) = texts(result).values()
        self.assertIn("the fixture's error", text)
        self.assertIn(f"{__name__}.Verdicts.First.test_it", result.verdicts)

    def test_attributes_that_load_tests_sets_are_kept(self):
        tests = suite_of(Verdicts.Number, Verdicts.Number)
        for number, test in enumerate(tests):
            test.number = number
        self.assertTrue(run(tests).wasSuccessful())

    def test_failfast_stops_after_the_first_failure(self):
        result = run(suite_of(Verdicts.Second, Verdicts.First), processes=1, failfast=True)
        self.assertEqual([f"{__name__}.Verdicts.Second.test_it"], list(result.verdicts))


class DeathTest(unittest.TestCase):
    """A worker that ends, or hangs."""

    def test_a_test_that_ends_its_process_is_named_and_the_rest_runs(self):
        for processes in (1, 2):
            result = run(suite_of(Verdicts.Dying, Verdicts.First), processes)
            with self.subTest(processes=processes):
                self.assertEqual(4, result.testsRun)
                self.assertIn("ended with status 7", texts(result)["Verdicts.Dying.test_b_dying"])
                self.assertEqual([("passed", "")], result.verdicts[f"{__name__}.Verdicts.Dying.test_c_after"])

    def test_a_worker_that_is_interrupted_at_its_end_still_ends(self):
        parent = os.getpid()

        class Interrupted(io.StringIO):
            def flush(self):
                if os.getpid() != parent:
                    raise KeyboardInterrupt

        with mock.patch("sys.stdout", Interrupted()), mock.patch.object(worker, "_run", lambda *_: 3):
            process = multiprocessing.get_context("fork").Process(target=worker.work, args=(None, None, [], sys.stderr))
            process.start()
        process.join()
        self.assertEqual(3, process.exitcode)

    def test_a_fork_that_leaves_its_test_ends_and_reports_nothing(self):
        result = run(suite_of(Verdicts.Forking), 1)
        self.assertEqual((2, {}), (result.testsRun, texts(result)))

    def test_findings_of_earlier_tests_survive_the_death_of_a_worker(self):
        result = run(suite_of(Verdicts.Noting, Verdicts.Dying), 1, fixed=True)
        self.assertEqual(1, result.findings.statements)

    def test_a_fixture_that_ends_its_process_is_named_and_the_rest_runs(self):
        result = run(suite_of(Verdicts.DyingFixture, Verdicts.First))
        self.assertRegex(
            texts(result)["Verdicts.DyingFixture"], r"killed by SIGKILL, in a fixture before .*\nTests without .*: 1"
        )
        self.assertEqual(1, result.testsRun)

    def test_a_test_that_exceeds_its_limit_is_stopped_with_its_stack(self):
        result = run(suite_of(Verdicts.Hanging), processes=1)
        text = texts(result)["Verdicts.Hanging.test_a_hanging"]
        self.assertRegex(text, r"took longer than its time limit and was stopped(.*\n)+.*in test_a_hanging")
        self.assertEqual(2, result.testsRun)

    def test_a_last_fixture_that_hangs_is_stopped_and_named(self):
        result = run(suite_of(Verdicts.HangingAtTheEnd), processes=1, limit=0.2)
        text = texts(result)["Verdicts.HangingAtTheEnd"]
        self.assertRegex(
            text, r"its time limit and was stopped, in a fixture after the last test(.*\n)+.*in tearDownClass"
        )
        self.assertEqual(1, result.testsRun)

    def test_a_process_that_outlives_its_worker_does_not_hide_its_end(self):
        reading, writing = Verdicts.Outlived.pipe = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        result = run(suite_of(Verdicts.Outlived))
        self.assertIn("ended with status 7", texts(result)["Verdicts.Outlived.test_it"])

    def test_a_fork_that_leaves_its_fixture_ends_and_reports_nothing(self):
        result = run(suite_of(Verdicts.ForkingFixture, Verdicts.First), 1)
        self.assertEqual((2, {}), (result.testsRun, texts(result)))

    def test_a_worker_that_stops_before_its_last_test_is_an_error_of_the_class(self):
        result = run(suite_of(Verdicts.Stopping, Verdicts.First))
        self.assertRegex(
            texts(result)["Verdicts.Stopping"], r"not expected \('done'\) (.*\n)*Tests without a result: 1"
        )
        self.assertEqual(2, result.testsRun)

    def test_a_message_that_was_not_expected_is_an_error_of_the_test(self):
        for name, said in {"Twice": r"not expected \('started'\)", "Garbage": "cannot be read"}.items():
            result = run(suite_of(getattr(Verdicts, name), Verdicts.First))
            with self.subTest(name):
                self.assertRegex(
                    texts(result)[f"Verdicts.{name}.test_it"], f"sent a message that .*{said}.* was stopped"
                )
                self.assertEqual(2, result.testsRun)


class PlanTest(unittest.TestCase):
    """Which worker runs which class."""

    def classes(self, sizes: dict[str, int], **attributes: Any) -> list[unittest.TestCase]:
        """Return the tests of classes with these numbers of tests."""
        tests: list[unittest.TestCase] = []
        for name, size in sizes.items():
            body = {f"test_{number}": lambda self: None for number in range(size)}
            tests += suite_of(type(name, (unittest.TestCase,), {"__module__": __name__, **body, **attributes}))
        return tests

    def names(self, plan: Plan) -> list[list[str]]:
        return [[type(plan.tests[group[0]]).__name__ for group in queue] for queue in plan.queues]

    def test_the_longest_known_class_comes_first(self):
        tests = self.classes({"Short": 1, "Large": 9, "Long": 1})
        plan = Plan(tests, 2, {f"{__name__}.Long.test_0": 5.0}, fixed=False)
        self.assertEqual(["Long", "Large", "Short"], self.names(plan)[0])

    def test_a_class_of_a_slow_package_comes_before_a_larger_one_that_is_fast(self):
        fast, slow = self.classes({"Fast": 9}), self.classes({"Slow": 1})
        type(slow[0]).__module__ = "tests.slow.test_it"
        with mock.patch.object(tiers, "slow_packages", {"tests.slow"}):
            self.assertEqual(["Slow", "Fast"], self.names(Plan(fast + slow, 2, {}, fixed=False))[0])

    def test_a_shuffled_run_deals_the_same_classes_to_the_same_workers(self):
        tests = self.classes({"A": 3, "B": 1, "C": 1, "D": 1, "E": 1})
        self.assertEqual([["A", "E"], ["B", "C", "D"]], self.names(Plan(tests, 2, {}, fixed=True)))

    def test_a_class_that_refuses_company_runs_alone_at_the_end(self):
        tests = self.classes({"A": 1}) + self.classes({"Alone": 2}, parallel=False)
        plan = Plan(tests, 2, {}, fixed=False)
        self.assertEqual(["A"], self.names(plan)[0])
        self.assertEqual([[1, 2]], list(plan.alone))

    def test_a_failure_names_the_tests_before_it_in_its_worker(self):
        result = run(suite_of(Verdicts.First, Verdicts.Number, Verdicts.Second), fixed=True)
        (text,) = (text for name, text in texts(result).items() if "Second" in name)
        names = re.escape(f"{__name__}.Verdicts.First")
        self.assertRegex(text, rf"before it in its worker: scripts/test (--shuffle=\d+ )?{names}\n")
        self.assertNotIn("before it", texts(run(suite_of(Verdicts.Second)))["Verdicts.Second.test_it"])


class CleanUpTest(unittest.TestCase):
    """After Ctrl-C."""

    def test_cleanups_of_the_interrupted_test_and_of_its_class_run(self):
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)

        class Interrupted(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.addClassCleanup(os.write, writing, b"class ")

            def tearDown(self):
                os.write(writing, b"tearDown ")

            def test_it(self):
                self.addCleanup(os.write, writing, b"test ")
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(60)

        result = Result(unittest.runner._WritelnDecorator(io.StringIO()), descriptions=False, verbosity=0)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        suite = Workers(Plan(suite_of(Interrupted), 1, {}, fixed=False), {}, 30.0)
        suite.run(result)
        os.close(writing)
        self.assertTrue(suite.interrupted)
        self.assertEqual(b"tearDown test class ", os.read(reading, 100))
        self.assertIn(f"interrupted during {Interrupted.__module__}", result.stream.getvalue())
