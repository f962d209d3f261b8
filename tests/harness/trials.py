"""What runs the same tests several times: the search for those that make another fail, and the sandbox's comparison."""

import copy
import functools
import io
import itertools
import unittest
from collections.abc import Callable, Iterable

from tests.harness.parallel import Parallel, can_move
from tests.harness.parallel_worker import Setup
from tests.harness.results import (
    FAILED,
    NO_TESTS,
    PASSED,
    PROGRAM,
    SEED,
    WRONG_OPTIONS,
    Result,
    classname,
    say,
    status_of,
)

Tests = tuple[unittest.TestCase, ...]


def culprits(before: Tests, fails: Callable[[Tests], bool]) -> Tests | None:
    """Return a smallest part of `before` that still makes `fails` true, by halving.

    Args:
        before: What makes it true as a whole, in order; nothing of it does not.
        fails: Whether a part of it does; each call is a trial.

    Returns:
        The part, in order; None when trials contradict each other.
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


def bisect(name: str, tests: Tests, setup: Setup) -> int:
    """Find the tests after which the test `name` fails; print them, and return the exit status."""
    before = tuple(itertools.takewhile(lambda test: test.id() != name, tests))
    target = next(iter(tests[len(before) :]), None)
    if target is None or not can_move(target):
        say(f"{PROGRAM}: --bisect takes the whole name of one of the chosen tests, and {name!r} is none")
        return WRONG_OPTIONS
    before = tuple(filter(can_move, before))

    @functools.cache
    def fails(part: Tests) -> bool:
        failed = fails_after(part, target, setup)
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
        say("it passed and failed after the same tests: something else than their order decides")
        return FAILED
    seed = [f"{SEED}={setup.environment[SEED]}"] if SEED in setup.environment else []
    together = f" these {len(names)} together, and none of them can be left out" if len(names) > 1 else ""
    say(f"it fails after{together}:", *(f"  {culprit}" for culprit in names))
    say("repeat it with:", f"  {' '.join([*seed, PROGRAM, *names, name])}")
    return FAILED


def fails_after(part: Tests, target: unittest.TestCase, setup: Setup) -> bool:
    """Return whether `target` fails, or does not come to run, after the tests of `part` in a fresh process.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the trial.
    """
    result = Result(io.StringIO(), descriptions=False, verbosity=0)
    trial = Parallel([[*part, target]], [], 1, setup)
    trial.run(result)
    if trial.interrupted:
        raise KeyboardInterrupt
    failing = [*(test for test, _ in result.failures + result.errors), *result.unexpectedSuccesses]
    # A subTest's name begins with its test's.
    return target.id() not in result.seconds or any(f"{test.id()} ".startswith(f"{target.id()} ") for test in failing)


def parity(
    tests: Iterable[unittest.TestCase],
    use_isolation: Callable[[str], None],
    run: Callable[[unittest.TestSuite], Result],
) -> int:
    """Run tests in the sandbox and with real commits, and hold the verdicts against each other.

    Args:
        tests: A class that says `not_in_parity_because` is left out, and its reason shown.
        use_isolation: Decides for the tests that start afterwards: "sandbox" or "commit".
        run: Runs a suite.

    Returns:
        The exit status; a test that fails both times fails the run as well.
    """
    chosen, left_out = [], {}
    for test in tests:
        reason = getattr(test, "not_in_parity_because", "")
        if reason:
            left_out[classname(test)] = reason
        else:
            chosen.append(test)
    if not chosen:
        say("parity: no test of an ApiTestCase was chosen")
        return NO_TESTS
    # An instance runs once.
    copies = [copy.copy(test) for test in chosen]
    results = []
    for isolation, shown, instances in (("sandbox", "in the sandbox", chosen), ("commit", "with real commits", copies)):
        say(f"parity: {len(chosen)} tests {shown}")
        use_isolation(isolation)
        results.append(run(unittest.TestSuite(instances)))
    differing = differences(*results)
    say(*(f"parity leaves out {name}: {reason}" for name, reason in left_out.items()))
    say(f"parity: {len(differing)} of {len(chosen)} tests get another verdict with real commits", *differing)
    return FAILED if differing else max(status_of(result) for result in results)


def differences(sandbox: Result, commit: Result) -> list[str]:
    """Return the tests with different verdicts, with both, as text."""
    names = {**sandbox.verdicts, **commit.verdicts}
    if sandbox.shouldStop or commit.shouldStop:
        # A run that was stopped at its first failure says nothing about the tests that it left.
        names = [name for name in names if name in sandbox.verdicts and name in commit.verdicts]

    def shown(result: Result, name: str) -> str:
        verdicts = result.verdicts.get(name, [("did not run", "")])
        return (
            ", ".join(f"{verdict}{which}" for verdict, which in verdicts if verdict != "passed" or not which) or "none"
        )

    def bare(result: Result, name: str) -> list[str]:
        # SubTests are told apart by their place: their parameters may be made anew in each run.
        return [verdict for verdict, _ in result.verdicts.get(name, [])]

    return [
        f"  {name}\n    in the sandbox: {shown(sandbox, name)}\n    with real commits: {shown(commit, name)}"
        for name in names
        if bare(sandbox, name) != bare(commit, name)
    ]
