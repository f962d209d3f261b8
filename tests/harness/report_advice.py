"""Recommendations: what to do about the gaps of a run, the most important first."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness.gates import ROOT
from tests.harness.results import FIXTURES

# A report shows this many recommendations, and folds away the others.
SHOWN = 10
# A test that takes more than this share of the time of all tests is slow.
LONG = 0.05
# What to do, and why; the most important first.
FIX, COMPLETE, RECEIVE, ERRORS, RACE, LINES, UNSKIP, BRANCHES, SHORTEN, EXITS = range(10)
ACTIONS = {
    FIX: ("Fix the failing tests first", "What a failing test covers is unknown."),
    COMPLETE: ("Run the whole suite", "Only a complete run measures coverage and documented responses."),
    RECEIVE: ("Test the documented responses that no test received", "A client can receive them."),
    ERRORS: ("Test the error paths", "This code runs when something goes wrong, and no test has run it."),
    RACE: ("Send concurrent requests", "These operations write, and no test sends several requests at once."),
    LINES: ("Test the lines that did not run", "No test has run them."),
    UNSKIP: ("Run the skipped tests", "A skipped test shows nothing."),
    BRANCHES: ("Test the branches that were not taken", "In every test, the condition had the same outcome."),
    SHORTEN: ("Shorten the slow tests", f"Each takes more than {LONG:.0%} of the time of all tests."),
    EXITS: ("Test the exits that were not taken", "No test has left the function or the loop at this line."),
}


class Advice(NamedTuple):
    """One recommendation: do `action` to `subject`. Within an action, the greater weight comes first."""

    action: int
    subject: str
    detail: str = ""
    weight: float = 0


def recommendations(facts: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the recommendations by rank and grouped by action: those to show, and those to fold away."""
    advice = [*_on_tests(facts)]
    if facts["summary"]["complete"]:
        advice += [each for file in facts["code"]["files"] for each in on_file(file["name"], file["missing"])]
    else:
        advice.append(Advice(COMPLETE, "scripts/report --all"))
    advice.sort(key=lambda each: (each.action, -each.weight, each.subject))
    return {"shown": _grouped(advice[:SHOWN]), "folded": _grouped(advice[SHOWN:])}


def _grouped(advice: Sequence[Advice]) -> list[dict[str, Any]]:
    return [
        {
            "action": ACTIONS[action][0],
            "reason": ACTIONS[action][1],
            "items": [{"subject": each.subject, "detail": each.detail} for each in group],
        }
        for action, group in groupby(advice, key=lambda each: each.action)
    ]


def _on_tests(facts: Mapping[str, Any]) -> Iterator[Advice]:
    tests = facts["tests"]
    if failed := sum(test["outcome"] == "failed" for test in tests):
        yield Advice(FIX, f"{failed} of {len(tests)} tests", "failed; see Failures")
    for reason, number in Counter(test["text"] for test in tests if test["outcome"] == "skipped").items():
        yield Advice(UNSKIP, f"{number} test{'s' * (number > 1)}", reason, number)
    if not facts["summary"]["complete"]:
        return
    for name, seconds in facts["time"]["slowest"]:
        share = seconds / (facts["time"]["total"] or 1)
        if share > LONG and not name.startswith(FIXTURES):
            yield Advice(SHORTEN, name, f"{seconds:.1f} s, {share:.0%} of all tests", seconds)
    if contract := facts["contract"]:
        for operation, group in groupby(contract["never"], key=lambda response: response[0]):
            responses = [f"{status} {code or ''}".strip() for _, status, code in group]
            yield Advice(RECEIVE, operation, ", ".join(responses), len(responses))
        yield from (Advice(RACE, operation) for operation in contract["not_raced"])


def on_file(name: str, missing: Sequence[str], root: Path = ROOT) -> Iterator[Advice]:
    """Advise on what did not run in a file, by function. The gravest gap of a function decides what to do."""
    tree = ast.parse((root / name).read_text("utf-8"))
    errors = _error_lines(tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    gaps: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for place in missing:
        # "7-9", "7->12" or "7->exit"
        first, _, last = place.partition("->")[0].partition("-")
        lines = range(int(first), int(last or first) + 1)
        around = [node for node in functions if node.lineno <= lines[0] <= (node.end_lineno or 0)]
        function = f"{max(around, key=lambda node: node.lineno).name}()" if around else "module level"
        if "->" in place:
            action = EXITS if place.endswith("exit") else BRANCHES
        else:
            action = LINES if errors.isdisjoint(lines) else ERRORS
        gaps[function].append((action, place, len(lines)))
    for function, found in gaps.items():
        actions, places, numbers = zip(*found, strict=True)
        number = sum(numbers)
        yield Advice(min(actions), function, f"{name}, line{'s' * (number > 1)} {', '.join(places)}", number)


def _error_lines(tree: ast.Module) -> set[int]:
    """Return the lines of exception handlers, of raise statements, and of `if` blocks that end in one."""
    found: set[int] = set()
    for node in ast.walk(tree):
        blocks: list[list[Any]] = []
        if isinstance(node, ast.ExceptHandler | ast.Raise):
            blocks = [[node]]
        elif isinstance(node, ast.If):
            blocks = [block for block in (node.body, node.orelse) if block and isinstance(block[-1], ast.Raise)]
        for block in blocks:
            found.update(range(block[0].lineno, block[-1].end_lineno + 1))
    return found
