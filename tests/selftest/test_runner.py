"""The command line of `scripts/test`: its options, and the order of its tests."""

import io
import os
import shlex
import unittest
from collections import Counter
from typing import Any
from unittest import mock

from tests.harness import leftovers, order, results, runner
from tests.harness.findings import Findings


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


@unittest.skipUnless(hasattr(os, "ST_NOEXEC"), "this system does not tell whether programs may run in a folder")
class TemporaryDirectoryTest(unittest.TestCase):
    """Where the files of a run are."""

    def test_they_are_in_memory_if_there_is_room_and_programs_may_run(self):
        room = leftovers.ROOM // 4096
        for described, facts, variables, expected in (
            ("room", mock.Mock(f_bavail=room, f_frsize=4096, f_flag=0), {}, leftovers.MEMORY),
            ("too little", mock.Mock(f_bavail=room - 1, f_frsize=4096, f_flag=0), {}, None),
            ("no programs", mock.Mock(f_bavail=room, f_frsize=4096, f_flag=os.ST_NOEXEC), {}, None),
            ("chosen", mock.Mock(f_bavail=room, f_frsize=4096, f_flag=0), {"TMPDIR": "/var/tmp"}, None),
        ):
            with (
                self.subTest(described),
                mock.patch.dict(os.environ, variables, clear=True),
                mock.patch.multiple(os, access=lambda *_: True, statvfs=lambda _, facts=facts: facts),
            ):
                self.assertEqual(expected, leftovers.in_memory())


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
        say.assert_called_once_with("sandbox: entered 4 times, 1.00 ms each to enter and leave")
