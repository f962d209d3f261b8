"""Runs the same tests several times: to find those that make another one fail, and to compare sandbox and commits."""

import functools
import io
import itertools
import unittest
from collections.abc import Callable, Mapping, Sequence

from tests.harness.order import classname
from tests.harness.results import FAILED, NO_TESTS, PASSED, PROGRAM, WRONG_OPTIONS, Result, say, status_of
from tests.harness.workers import Workers

Tests = Sequence[unittest.TestCase]


def culprits(before: Tests, fails: Callable[[Tests], bool]) -> Tests | None:
    """Return a smallest part of `before` that still makes `fails` true, by halving; None if trials contradict.

    Args:
        before: In order; `fails` is true for the whole and false for the empty part.
        fails: Runs a trial with a part of it.
    """
    found: Tests = ()
    while before:
        # The shortest beginning that makes it fail ends with a culprit.
        passing, failing = 0, len(before)
        while failing - passing > 1:
            middle = (passing + failing) // 2
            if fails((*before[:middle], *found)):
                failing = middle
            else:
                passing = middle
        found = (before[failing - 1], *found)
        before = before[: failing - 1]
        if fails(found):
            return found
    return None


def bisect(name: str, tests: Tests, workers: Callable[[Tests], Workers], seed: str = "") -> int:
    """Find the tests after which the test `name` fails; print them and return the exit status.

    Args:
        name: The id of one of the tests.
        tests: In the order of the run.
        workers: Makes a suite that runs tests in a fresh process.
        seed: Assignment of the variable that repeats the values of the factories.
    """
    before = tuple(itertools.takewhile(lambda test: test.id() != name, tests))
    if len(before) == len(tests):
        say(f"{PROGRAM}: --bisect takes the full name of one of the selected tests; {name!r} is not one")
        return WRONG_OPTIONS
    target = tests[len(before)]

    @functools.cache
    def fails(part: Tests) -> bool:
        failed = _fails_after(part, target, workers)
        say(f"after {len(part)} of the {len(before)} tests before it: {'fails' if failed else 'passes'}")
        return failed

    say(f"bisecting {name}")
    if fails(()):
        say("it fails alone: no other test is needed")
        return FAILED
    if not fails(before):
        say("it passes after all of them: in this order, none makes it fail")
        return PASSED
    names = [test.id() for test in culprits(before, fails) or ()]
    if not names:
        say("it passed and failed after the same tests: the cause is not their order")
        return FAILED
    together = f" these {len(names)} together, and none of them can be left out" if len(names) > 1 else ""
    say(f"it fails after{together}:", *(f"  {culprit}" for culprit in names))
    say("repeat it with:", f"  {' '.join(filter(None, [seed, PROGRAM, *names, name]))}")
    return FAILED


def _fails_after(part: Tests, target: unittest.TestCase, workers: Callable[[Tests], Workers]) -> bool:
    """Return whether `target` fails or does not run after the tests of `part`, in a fresh process."""
    result = Result(unittest.runner._WritelnDecorator(io.StringIO()), descriptions=False, verbosity=0)
    trial = workers([*part, target])
    trial.run(result)
    if trial.interrupted:
        raise KeyboardInterrupt
    verdicts = {verdict for verdict, _ in result.verdicts.get(target.id(), [])}
    return not verdicts or bool(verdicts & {"failed", "error", "passed unexpectedly"})


def parity(tests: Tests, isolations: Mapping[str, str], run: Callable[[str, Tests], Result]) -> int:
    """Run tests with two isolations, given with their names in words, and compare the verdicts.

    A class that says `not_in_parity_because` is left out, and its reason is printed.

    Returns:
        The exit status; a test that fails both times fails the run as well.
    """
    left_out = {classname(test): reason for test in tests if (reason := getattr(test, "not_in_parity_because", ""))}
    chosen = [test for test in tests if classname(test) not in left_out]
    if not chosen:
        say("parity: no test of an ApiTestCase was selected")
        return NO_TESTS
    results = []
    for isolation, shown in isolations.items():
        say(f"parity: {len(chosen)} tests {shown}")
        results.append(run(isolation, chosen))
    differing = _differences(*results)
    say(*(f"parity leaves out {name}: {reason}" for name, reason in left_out.items()))
    say(f"parity: {len(differing)} of {len(chosen)} tests get another verdict with real commits", *differing)
    return FAILED if differing else max(map(status_of, results))


def _differences(sandbox: Result, commit: Result) -> list[str]:
    """Return the tests with different verdicts, with both, as text."""
    names = list({**sandbox.verdicts, **commit.verdicts})
    if sandbox.shouldStop or commit.shouldStop:
        # A run that stopped at its first failure says nothing about the tests that did not run.
        names = [name for name in names if name in sandbox.verdicts and name in commit.verdicts]

    def shown(result: Result, name: str) -> str:
        verdicts = result.verdicts.get(name, [("did not run", "")])
        return ", ".join(f"{verdict}{which}" for verdict, which in verdicts)

    def bare(result: Result, name: str) -> list[str]:
        # Without the parameters of subtests: they may differ between runs.
        return [verdict for verdict, _ in result.verdicts.get(name, [])]

    return [
        f"  {name}\n    in the sandbox: {shown(sandbox, name)}\n    with real commits: {shown(commit, name)}"
        for name in names
        if bare(sandbox, name) != bare(commit, name)
    ]
