"""The runner behind `scripts/test`: unittest's command line with the options that it lacks.

Tests run in worker processes (`tests.harness.workers`), also without `--parallel`. `python -m unittest` runs the same
tests in its own process.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import random
import signal
import sys
import unittest
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from tests import binding
from tests.harness import gates, keeper, order, tiers
from tests.harness.leftovers import processes_ended, use_own_temporary_directory
from tests.harness.order import Plan, flatten, order_options, shuffled
from tests.harness.results import (
    FAILED,
    INTERRUPTED,
    PASSED,
    PROGRAM,
    SEED,
    WRONG_OPTIONS,
    Result,
    say,
    say_cost,
    say_skips,
    say_slowest,
    status_of,
)
from tests.harness.trials import bisect, parity
from tests.harness.workers import Workers

# Durations of the tests in earlier runs: a parallel run starts with the longest class.
MEMORY = Path(sys.prefix) / "test-seconds.json"
LIMIT = 60.0  # seconds


HELP = f"""\
Usage: {PROGRAM} [OPTION ...] [TEST ...]

Runs the named tests (packages, modules, classes, methods), or all that are fast. It has unittest's options, which
follow below, and these:

  --all             run the slow tests, too, and check coverage and documented responses.
  --shuffle[=SEED]  run in an order that SEED decides; modules and classes stay together. Without SEED, one is made and
                    printed. A selection of tests keeps the order of the whole run.
  --parallel[=N]    distribute the classes over N processes (default: one for each processor), each with a database of
                    its own. Classes and modules that say `parallel = False` run alone at the end.
  --limit SECONDS   stop a test that takes longer, name it, and go on; {LIMIT:.0f} by default, 0 for no limit.
  --keep-server     use an embedded PostgreSQL server that goes on for 15 minutes, so that the next run starts faster.
  --durations N     show the N slowest tests and fixtures; 0 shows all.
  --bisect TEST     find the tests that make TEST fail, among those before it in the order of this run.
  --parity          run the tests of each ApiTestCase in the sandbox and with real commits, each on a clone of the
                    database; a different verdict fails.
  --parity-delete   the same with one database whose rows are deleted: faster, but sequences go on.

Exit status: 0 success, 1 a test failed, 2 wrong options, 5 no test was run, 130 after Ctrl-C.
"""


class Loader(unittest.TestLoader):
    """unittest's loader, which also finds all tests of a named package ("tests.unit" or "tests/unit")."""

    def loadTestsFromName(self, name: str, module: ModuleType | None = None) -> unittest.TestSuite:
        package = name.rstrip("/").replace("/", ".")
        if module is None and Path(*package.split(".")).is_dir():
            with contextlib.suppress(ImportError):
                spec = importlib.util.find_spec(package)
                if spec and spec.submodule_search_locations:
                    tiers.named.add(package)
                    return self.discover(spec.submodule_search_locations[0], top_level_dir=os.getcwd())
        return super().loadTestsFromName(name, module)


class Program(unittest.TestProgram):
    """unittest's command line with the options of `parse`."""

    test: unittest.TestSuite
    tb_locals: bool

    def __init__(self, own: argparse.Namespace, arguments: Sequence[str], resultclass: type[Result] = Result) -> None:
        self.own = own
        self.status = PASSED
        self.report: Result | None = None  # of the last run of tests; `--bisect` has none
        self.coverage: gates.CodeCoverage | None = None  # of a run of all tests
        self.shortfalls: list[str] = []  # what a run of all tests should have shown and has not, in words
        self._resultclass = resultclass
        whole = own.all and gates.is_whole(arguments) and not (own.bisect or own.parity)
        self._measurement = gates.Measurement() if whole else None
        super().__init__(None, argv=[PROGRAM, *arguments], testLoader=Loader(), exit=False)

    def parseArgs(self, argv: list[str]) -> None:
        self.progName = PROGRAM  # unittest would leave out the folder.
        super().parseArgs(argv)

    def runTests(self) -> None:
        tests = list(flatten(self.test))
        if order.seed is not None:
            processes = f" --parallel={self.own.parallel}" if self.own.parallel else ""
            say(f"shuffled with seed {order.seed} (repeat with {order_options()}{processes})")
            tests = shuffled(tests, order.seed)
        prepare()
        with processes_ended():
            try:
                self.status = self._run_trials(tests)
            except KeyboardInterrupt:
                self.status = INTERRUPTED
        if self.report is not None:
            say_skips(self.report)
            say_cost(self.report)
            if self._measurement is not None and self.status != INTERRUPTED:
                self._check_gates(self._measurement.end(), self.report)

    def _check_gates(self, coverage: gates.CodeCoverage, report: Result) -> None:
        """Fail a run of all tests that has not shown all that it has to."""
        self.coverage = coverage
        self.shortfalls = gates.shortfalls(report.findings, coverage)
        say(f"coverage of {binding.PACKAGE}/: {coverage.percent:.1f} % of lines and branches", *self.shortfalls)
        if self.shortfalls:
            self.status = FAILED

    def _run_trials(self, tests: Sequence[unittest.TestCase]) -> int:
        """Run the tests as the options say, and return the exit status."""
        cases = _loaded("cases")
        if self.own.bisect:
            seed = f"{SEED}={cases.run_seed()}" if cases else ""
            return bisect(self.own.bisect, tests, lambda part: self._workers(part, 1), seed)
        if not self.own.parity:
            return status_of(self._run(tests))
        chosen = [test for test in tests if cases and isinstance(test, cases.ApiTestCase)]

        def run(isolation: str, part: Sequence[unittest.TestCase]) -> Result:
            cases.use_isolation(isolation)
            return self._run(part)

        return parity(chosen, {"sandbox": "in the sandbox", self.own.parity: "with real commits"}, run)

    def _run(self, tests: Sequence[unittest.TestCase]) -> Result:
        """Run the tests once. A KeyboardInterrupt comes after the results so far were shown."""
        suite = self._workers(tests, self.own.parallel or 1)
        self._resultclass.expected = len(tests)
        runner = unittest.TextTestRunner(
            verbosity=self.verbosity, failfast=bool(self.failfast), resultclass=self._resultclass
        )
        result = runner.run(suite)
        assert isinstance(result, Result)
        self.report = result
        remember(MEMORY, result.seconds)
        if self.own.durations is not None:
            say_slowest(result, self.own.durations)
        if suite.interrupted:
            raise KeyboardInterrupt
        return result

    def _workers(self, tests: Sequence[unittest.TestCase], processes: int) -> Workers:
        plan = Plan(tests, processes, recall(MEMORY), fixed=order.seed is not None)
        names = ("failfast", "buffer", "tb_locals", "warnings")
        return Workers(plan, {name: getattr(self, name) for name in names}, self.own.limit)


def prepare() -> None:
    """Start the server and choose the seed of the factories, if the tests use them: the workers inherit both."""
    if postgres := _loaded("postgres"):
        try:
            postgres.prepare()
        except postgres.NoServerError as error:
            sys.exit(f"{PROGRAM}: {error}")
    if cases := _loaded("cases"):
        cases.run_seed()


def _loaded(name: str) -> Any:
    """Return a module of the harness if a test has imported it: tests that need no database do not load it."""
    return sys.modules.get(f"{__package__}.{name}")


def recall(memory: Path) -> dict[str, float]:
    """Return the durations of the tests in earlier runs, by id."""
    try:
        return dict(json.loads(memory.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def remember(memory: Path, seconds: Mapping[str, float]) -> None:
    """Keep the durations of the tests for the next run. Simultaneous runs may overwrite each other's file, whole."""
    draft = memory.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        draft.write_text(json.dumps({**recall(memory), **seconds}, indent=0), "utf-8")
        draft.replace(memory)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_OPTIONS, f"{PROGRAM}: {message}\n")


def _whole(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"takes a whole number from {least} up, not {text!r}")
        return int(text)

    return convert


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return our options, and the arguments for unittest."""
    words, names = list(arguments), []
    if "--" in words:
        words, names = words[: words.index("--")], words[words.index("--") :]
    # Their value is optional, and the word that follows is a test's name, never the value.
    bare = {"--shuffle": f"--shuffle={random.SystemRandom().randrange(10**6)}", "--parallel": f"--parallel={cpus()}"}
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--shuffle")
    parser.add_argument("--parallel", type=_whole(1))
    parser.add_argument("--limit", type=_whole(0), default=LIMIT)
    parser.add_argument("--keep-server", action="store_true")
    parser.add_argument("--durations", type=_whole(0))
    parser.add_argument("--bisect")
    parser.add_argument("--parity", action="store_const", const="commit")
    parser.add_argument("--parity-delete", action="store_const", const="delete", dest="parity")
    own, rest = parser.parse_known_args([bare.get(word.removesuffix("="), word) for word in words])
    if own.bisect and (own.parity or own.parallel):
        parser.error("--bisect goes neither with --parallel nor with --parity")
    if {"-h", "--help"} & set(rest):
        print(HELP)
    return own, rest + names


def cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(arguments: Sequence[str], resultclass: type[Result] = Result) -> Program:
    """Run the tests that `arguments` select and return the program with its result."""
    own, rest = parse(arguments)
    order.seed = own.shuffle
    tiers.everything = own.all
    # Exit handlers stop the server, so a signal must not end this process at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if own.keep_server:
            keeper.use()
        use_own_temporary_directory()
        return Program(own, rest, resultclass)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]).status)
