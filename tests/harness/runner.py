"""The runner behind `scripts/test`: unittest's own command line, and what it lacks.

It shuffles (`--shuffle`), spreads over processes (`--parallel`), lists the slowest (`--durations`), finds the test
that makes another fail (`--bisect`), and holds the sandbox against real commits (`--parity`). Without an option of its
own it does what ``python -m unittest`` does, and that stays another way to run every test.

Exit status: 0 when all is well, 1 when not, 2 for wrong options, 130 after Ctrl-C, and 5 when no test ran: a misspelt
`-k` must not look like success. (unittest itself has the 5 from Python 3.12 on; here it is so on 3.11 too.)
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shlex
import sys
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

from tests import binding
from tests.harness import gates
from tests.harness.measured import unmeasured
from tests.harness.parallel import Parallel, spread
from tests.harness.parallel_worker import Setup
from tests.harness.results import (
    FAILED,
    INTERRUPTED,
    PASSED,
    PROGRAM,
    SEED,
    WRONG_OPTIONS,
    Result,
    Stopwatch,
    classname,
    say,
    status_of,
)
from tests.harness.trials import bisect, parity

# Says the seed to this process and its workers; set anew, or removed, at the start of each run.
SHUFFLE = f"{binding.PREFIX}SHUFFLE"
# How long tests took, so that a parallel run begins with the longest. It is in the virtual environment, which git
# ignores; a project that keeps that elsewhere does without.
MEMORY = Path(".venv/test-seconds.json")
# What --parity compares; the cases are looked up by name when the tests have imported them, because the runner also
# runs tests that need no database, and they import the runner.
CASES = "tests.harness.cases"

HELP = f"""\
Usage: {PROGRAM} [OPTION ...] [TEST ...]

Runs the named tests (modules, classes, methods), or all. Beside unittest's options, which follow below, it knows:

  --shuffle[=SEED]  run in an order that SEED decides, modules and classes kept together. The seed is printed, and made
                    when none is given. Fewer tests keep the order that they have among all.
  --parallel[=N]    spread the classes over N processes, or one for each processor, each with a database of its own.
                    Classes and modules that say `parallel = False` run alone at the end.
  --durations N     show the N slowest tests and fixtures, or all when N is 0.
  --bisect TEST     find out which of the tests before TEST, in the order of this run, make it fail.
  --parity          run the tests of each ApiTestCase in the sandbox and with real commits; a different verdict fails.

Exit status: 0 all is well, 1 a test failed, 2 wrong options, 5 no test was run, 130 after Ctrl-C.
"""


def order_options() -> str:
    """Return the option that repeats this run's order, also in a worker; empty when it is not shuffled."""
    seed = os.environ.get(SHUFFLE)
    return f"--shuffle={shlex.quote(seed)}" if seed else ""


def flatten(suite: Iterable[Any]) -> Iterator[unittest.TestCase]:
    """Yield the tests in a suite of suites, in their order."""
    for test in suite:
        if isinstance(test, unittest.BaseTestSuite):
            yield from flatten(test)
        else:
            yield test


def shuffled(tests: Iterable[unittest.TestCase], seed: str) -> list[unittest.TestCase]:
    """Return the tests in the order that `seed` gives them, modules and classes kept together.

    What decides is a hash of seed and name, so that tests keep their order when others are left out.
    """

    def place(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    return sorted(tests, key=lambda test: (place(type(test).__module__), place(classname(test)), place(test.id())))


class Program(unittest.TestProgram):
    """unittest's command line, and what our options ask for.

    Args:
        own: Our options.
        arguments: Those of unittest.
        resultclass: Takes the verdicts.

    Attributes:
        status: The exit status.
        result: What the run came to; None where none came about.
        coverage: How much of the code a run of the whole suite has run; None for other runs.
        shortfalls: What such a run has not shown, in words.
    """

    def __init__(self, own: argparse.Namespace, arguments: Sequence[str], resultclass: type[Result] = Result) -> None:
        self.own = own
        self.status = PASSED
        self.result: Result | None = None
        self.coverage: gates.CodeCoverage | None = None
        self.shortfalls: list[str] = []
        runner = type("Runner", (unittest.TextTestRunner,), {"resultclass": resultclass})
        loader = unittest.TestLoader()
        whole = gates.is_whole(arguments) and not (own.bisect or own.parity)
        self._measurement = gates.Measurement() if whole else None
        super().__init__(None, argv=[PROGRAM, *arguments], testRunner=runner, testLoader=loader, exit=False)

    def parseArgs(self, argv: list[str]) -> None:
        self.progName = PROGRAM  # unittest would leave out the folder.
        super().parseArgs(argv)

    def runTests(self) -> None:
        if self.own.shuffle is not None:
            say(f"shuffled with seed {self.own.shuffle} (repeat with {order_options()})")
            self.test = unittest.TestSuite(shuffled(flatten(self.test), self.own.shuffle))
        if self.own.bisect:
            self._bisect(self.own.bisect)
        elif self.own.parity:
            self._compare()
        elif self.own.parallel:
            self._spread(self.own.parallel)
        else:
            self.status = status_of(self._run(self.test))
        if self.result is not None:
            say_cost(self.result)
        if self._measurement is not None and self.status != INTERRUPTED:
            self._look_back(self._measurement.end())

    def _look_back(self, coverage: gates.CodeCoverage) -> None:
        """Fail the run of the whole suite that has not shown all that it has to."""
        self.coverage = coverage
        self.shortfalls = gates.shortfalls(self.result.findings, coverage)
        say(f"coverage of {binding.PACKAGE}/: {coverage.percent:.1f} % of lines and branches", *self.shortfalls)
        if self.shortfalls:
            self.status = FAILED

    def _bisect(self, name: str) -> None:
        try:
            self.status = bisect(name, tuple(flatten(self.test)), self._setup())
        except KeyboardInterrupt:
            self.status = INTERRUPTED

    def _compare(self) -> None:
        cases = sys.modules.get(CASES)
        tests = [test for test in flatten(self.test) if cases and isinstance(test, cases.ApiTestCase)]
        self.status = parity(tests, cases and cases.use_isolation, self._run)

    def _spread(self, processes: int) -> None:
        # Ctrl-C always shows the results so far here, and unittest's own way to that does not know of workers.
        self.catchbreak = False
        groups, alone = spread(flatten(self.test), recall(MEMORY))
        with unmeasured():
            # It ends after this process, too late to say what it has run.
            resource_tracker.ensure_running()
        suite = Parallel(groups, alone, processes, self._setup())
        result = self._run(suite)
        remember(MEMORY, result.seconds)
        if suite.interrupted:
            say(f"{PROGRAM}: interrupted; what is above is the result up to then")
        self.status = INTERRUPTED if suite.interrupted else status_of(result)

    def _run(self, suite: unittest.TestSuite) -> Result:
        self.test = suite
        Result.expected = suite.countTestCases()
        super().runTests()
        if self.own.durations is not None:
            say_slowest(self.result, self.own.durations)
        return self.result

    def _setup(self) -> Setup:
        return Setup(hand_over(), buffer=self.buffer, tb_locals=self.tb_locals, warnings=self.warnings)


def hand_over() -> dict[str, str]:
    """Return the environment that gives workers this run's server and seed; a server that tests need starts here."""
    environment = {}
    if postgres := sys.modules.get("tests.harness.postgres"):
        try:
            # Makes the template too, once and not in every worker.
            postgres.run_database_url()
        except postgres.NoServerError as error:
            sys.exit(f"{PROGRAM}: {error}")
        environment |= {postgres.SERVER: "url", postgres.URL: postgres.server().url}
    if cases := sys.modules.get(CASES):
        environment[SEED] = cases.run_seed()
    return environment


def recall(memory: Path) -> dict[str, float]:
    """Return how long tests took when they last ran in parallel, by their ids."""
    try:
        return json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # Nothing depends on it but how well the workers are used.


def remember(memory: Path, seconds: Mapping[str, float]) -> None:
    """Note for the next run how long tests took; runs at the same time may overwrite each other's notes, whole."""
    draft = memory.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        draft.write_text(json.dumps({**recall(memory), **seconds}, indent=0), "utf-8")
        draft.replace(memory)


def say_slowest(result: Stopwatch, number: int) -> None:
    """Print the `number` slowest tests and fixtures, or all of them for 0."""
    if not result.seconds:
        return
    slowest = sorted(result.seconds.items(), key=lambda item: -item[1])
    say("slowest:", *(f"{seconds:9.3f} s  {name}" for name, seconds in slowest[: number or None]))


def say_cost(result: Stopwatch) -> None:
    """Print what the sandbox cost, here and in the workers."""
    number, seconds = result.findings.sandboxes, result.findings.spent_on("sandbox")
    if number:
        say(f"sandbox: {number} test{'s' * (number > 1)}, {1000 * seconds / number:.2f} ms each to enter and leave")


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
    """Return our options, and the arguments for unittest.

    Raises:
        SystemExit: Our options are wrong; why has been printed.
    """
    words, names = list(arguments), []
    if "--" in words:
        words, names = words[: words.index("--")], words[words.index("--") :]
    # Their value is optional, and the word that follows is a test's name, never the value.
    bare = {"--shuffle": f"--shuffle={random.SystemRandom().randrange(10**6)}", "--parallel": f"--parallel={cpus()}"}
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--shuffle")
    parser.add_argument("--parallel", type=_whole(1))
    parser.add_argument("--durations", type=_whole(0))
    parser.add_argument("--bisect")
    parser.add_argument("--parity", action="store_true")
    own, rest = parser.parse_known_args([bare.get(word.removesuffix("="), word) for word in words])
    modes = [f"--{mode}" for mode in ("parallel", "bisect", "parity") if getattr(own, mode)]
    if len(modes) > 1:
        parser.error(f"{' and '.join(modes)} do not go together")
    if {"-h", "--help"} & set(rest):
        print(HELP)
    return own, rest + names


def cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(arguments: Sequence[str], resultclass: type[Result] = Result) -> Program:
    """Run the tests that `arguments` choose, as they ask, and return what came of it.

    Raises:
        SystemExit: The arguments are wrong, or ask for help.
    """
    own, rest = parse(arguments)
    os.environ.pop(SHUFFLE, None)
    if own.shuffle is not None:
        os.environ[SHUFFLE] = own.shuffle
    return Program(own, rest, resultclass)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]).status)
