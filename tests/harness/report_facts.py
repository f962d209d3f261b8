"""What the report says, as plain data: worked out from a run's verdicts and findings, nothing made up beforehand."""

import ast
import os
import platform
import re
import sys
import unittest
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tests import binding
from tests.harness import gates
from tests.harness.findings import Findings
from tests.harness.results import FIXTURES
from tests.harness.runner import SHUFFLE

ROOT = Path(__file__).resolve().parents[2]
BAD = ("failed", "error", "passed unexpectedly")
SLOWEST = 10
# A test that takes more than this share of all test time is worth a look.
LONG = 0.05
FLOWS = "tests.integration.test_flows"
# What the harness measures, in words; everything else is the tests' own code.
KINDS = {
    "requests": "HTTP: requests in the test's process, without what follows",
    "database": "database: statements of the service",
    "hashing": "hashing of passwords",
    "requests over TCP": "HTTP: requests to a real server",
    "server processes": "starting, stopping and running the project's command",
    "sandbox": "fixture: entering and leaving the sandbox",
    "deletion of committed rows": "fixture: deletion of committed rows",
    "contract checks": "holding answers against the description",
}


@dataclass(frozen=True)
class Test:
    """A test and what it came to; `sentence` says what it shows, `text` why it did not pass."""

    name: str
    module: str
    classname: str
    sentence: str
    verdict: str
    seconds: float
    text: str

    @classmethod
    def of(cls, test: unittest.TestCase, verdict: str, seconds: float, text: str) -> "Test":
        """Return the record of a test."""
        method = test.id().rpartition(".")[2]
        kind = type(test)
        sentence = test.shortDescription() or method.removeprefix("test_").replace("_", " ").strip()
        return cls(test.id(), kind.__module__, kind.__qualname__, _capital(sentence), verdict, seconds, text.strip())

    @classmethod
    def of_fixture(cls, name: str, text: str) -> "Test":
        """Return the record of a fixture, or of a class whose process died."""
        return cls(name, name.rpartition(".")[0], name, "The fixture of these tests", "error", 0.0, text.strip())


def gather(program: Any, tests: Sequence[Test], *, started: datetime, commit: str) -> dict[str, Any]:
    """Return everything that the report says.

    Args:
        program: The run, as `tests.harness.runner.run` returns it.
        tests: What each test came to.
        started: When the run began, aware.
        commit: What was tested.
    """
    findings: Findings = program.result.findings
    verdicts = Counter(test.verdict for test in tests)
    contract, access = _contract(findings), _access(findings)
    facts = {
        "summary": {
            "passed": verdicts["passed"] + verdicts["failed as expected"],
            "failed": sum(verdicts[bad] for bad in BAD),
            "skipped": verdicts["skipped"],
            "started": f"{started:%Y-%m-%d %H:%M:%S} UTC",
            "seconds": (datetime.now(UTC) - started).total_seconds(),
            "status": program.status,
            "whole": program.coverage is not None,
            "name": binding.NAME,
        },
        "environment": _environment(commit),
        "tests": [asdict(test) for test in tests],
        "coverage": {
            "code": asdict(program.coverage) if program.coverage else None,
            "package": binding.PACKAGE,
            "least": gates.LEAST,
            "contract": contract,
            "access": access,
        },
        "time": _time(program.result.seconds, findings),
        "issues": _issues(tests, program.shortfalls),
    }
    facts["scope"] = _scope(facts, findings)
    facts["recommendations"] = _recommendations(facts, findings)
    return facts


def _environment(commit: str) -> list[tuple[str, str]]:
    """Return what the run stood on, as names and values."""
    found = [("Commit", commit)]
    postgres, cases = (sys.modules.get(f"tests.harness.{name}") for name in ("postgres", "cases"))
    if postgres and postgres.server.cache_info().currsize:
        found.append(("Database", postgres.server().described))
    if cases and cases.run_seed.cache_info().currsize:
        found.append(("Isolation", "a savepoint sandbox for each test; real commits where a test needs them"))
        found.append(("Seed of the factories", cases.run_seed()))
    shuffle = os.environ.get(SHUFFLE)
    found.append(("Order", f"shuffled with the seed {shuffle}" if shuffle else "as written"))
    found.append(("Python", f"{platform.python_implementation()} {platform.python_version()}"))
    found.append(("System", f"{platform.system()} {platform.release()}, {os.cpu_count()} processors"))
    installed = {name: _version(name) for name in sorted(binding.REQUIREMENTS, key=str.lower)}
    found.append(("Packages", ", ".join(f"{name} {version}" for name, version in installed.items() if version)))
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""  # One that another Python version needs.


def _contract(findings: Findings) -> dict[str, Any] | None:
    """Return the matrix of operations and answers; None when no test asked the API anything."""
    if not findings.answers:
        return None
    from tests.harness import contract  # noqa: PLC0415 - brings the application, which this run may not need

    described = contract.described_answers()
    columns = sorted({(status, code or "") for _, status, code in described})
    never = set(contract.never_seen(findings.answers.keys()))

    def cell(operation: str, status: int, code: str) -> dict[str, Any] | None:
        answer = (operation, status, code or None)
        if answer not in described:
            return None
        return {
            "seen": findings.answers[answer],
            "missed": answer in never,
            "reason": contract.NOT_TO_BE_SEEN.get(answer, ""),
        }

    rows = {
        operation: [cell(operation, status, code) for status, code in columns]
        for operation in sorted({operation for operation, *_ in described})
    }
    return {
        "columns": [f"{status} {code}".strip() for status, code in columns],
        "rows": rows,
        "described": len(described),
        "seen": len(described & findings.answers.keys()),
        "never": [f"{operation} {status} {code or 'success'}" for operation, status, code in sorted(never, key=str)],
    }


def _access(findings: Findings) -> dict[str, Any] | None:
    """Return the matrix of operations and callers; None when its test did not run."""
    if not findings.access:
        return None
    callers = list(dict.fromkeys(caller for _, caller in findings.access))
    operations = list(dict.fromkeys(operation for operation, _ in findings.access))
    return {
        "columns": callers,
        "rows": {
            operation: [findings.access.get((operation, caller), "") for caller in callers] for operation in operations
        },
    }


def _time(seconds: dict[str, float], findings: Findings) -> dict[str, Any]:
    """Return where the time went, the slowest tests, and what isolation costs."""
    totals = {"fixtures": 0.0, "tests": 0.0}
    for name, each in seconds.items():
        totals["fixtures" if name.startswith(FIXTURES) else "tests"] += each
    kinds = [(words, findings.spent_on(kind)) for kind, words in KINDS.items()]
    for phase, words in (
        ("fixtures", "fixture: the rest of classes and modules, the database server's start included"),
        ("tests", "the rest: the tests' own code, and processes that they start themselves"),
    ):
        measured = sum(each for (where, _), each in findings.seconds.items() if where == phase)
        kinds.append((words, max(0.0, totals[phase] - measured)))
    slowest = sorted(seconds.items(), key=lambda item: -item[1])[:SLOWEST]
    sandbox = findings.spent_on("sandbox")
    return {
        "total": sum(totals.values()),
        "kinds": sorted(((words, each) for words, each in kinds if each), key=lambda item: -item[1]),
        "slowest": slowest,
        "sandboxes": findings.sandboxes,
        "sandbox_ms": 1000 * sandbox / findings.sandboxes if findings.sandboxes else 0.0,
    }


def _issues(tests: Iterable[Test], shortfalls: Sequence[str]) -> list[dict[str, str]]:
    """Return what is wrong, with what was said of it."""
    found = [{"title": f"{test.verdict}: {test.name}", "text": test.text} for test in tests if test.verdict in BAD]
    if shortfalls:
        found.append({"title": "The suite has not shown all that it has to", "text": "\n".join(shortfalls)})
    return found


def _scope(facts: dict[str, Any], findings: Findings) -> list[tuple[str, str]]:
    """Return the integration points that this run has been at, as names and sentences."""
    scope = []
    coverage, tests = facts["coverage"], facts["tests"]
    if contract := coverage["contract"]:
        asked = sum(any(cell and cell["seen"] for cell in row) for row in contract["rows"].values())
        scope.append(
            (
                "Endpoints",
                f"{asked} of {len(contract['rows'])} operations, {findings.answers.total()} answers, each held against"
                f" the served description; {contract['seen']} of {contract['described']} documented answers seen",
            )
        )
    if findings.statements:
        scope.append(("Database", f"{findings.statements} statements of the service on a real PostgreSQL"))
    if access := coverage["access"]:
        scope.append(
            ("Authentication", f"{len(access['rows'])} operations by {len(access['columns'])} kinds of callers")
        )
    if findings.raced:
        scope.append(("Races", f"requests at the same moment, with real commits: {', '.join(sorted(findings.raced))}"))
    if flows := [test["sentence"] for test in tests if test["module"] == FLOWS]:
        scope.append(("Flows", "; ".join(flows)))
    modules = Counter(test["module"] for test in tests)
    scope.append(("Tests", ", ".join(f"{module} ({number})" for module, number in sorted(modules.items()))))
    if code := coverage["code"]:
        names = ", ".join(file["name"] for file in code["files"])
        scope.append(("Files", f"{len(code['files'])} files of the service: {names}"))
    return scope


def _recommendations(facts: dict[str, Any], findings: Findings) -> list[str]:
    """Return what would close the gaps that this run shows."""
    found = []
    coverage, summary = facts["coverage"], facts["summary"]
    if summary["failed"]:
        failing = f"{summary['failed']} of {len(facts['tests'])}"
        found.append(f"Mend first what fails ({failing}): what it covers is not shown.")
    if not summary["whole"]:
        found.append("Run the whole suite: only then coverage and documented answers say something.")
    elif coverage["contract"]:
        found += [
            f"Get the answer {answer}: it is documented, and no test sees it."
            for answer in coverage["contract"]["never"]
        ]
        found += [f"Race {name}: it writes, and no test sends several at once." for name in _unraced(findings)]
    files = coverage["code"]["files"] if coverage["code"] else []
    for file in sorted(files, key=lambda file: -len(file["missing"])):
        if file["missing"]:
            found.append(f"Go where no test goes in {file['name']}: {_places(file)}.")
    for name, seconds in facts["time"]["slowest"]:
        if seconds > LONG * facts["time"]["total"] and not name.startswith(FIXTURES):
            share = 100 * seconds / facts["time"]["total"]
            found.append(f"Shorten {name}: it takes {seconds:.1f} s, {share:.0f} % of all.")
    reasons = Counter(test["text"] for test in facts["tests"] if test["verdict"] == "skipped")
    found += [f"Run the {number} tests that were skipped: {reason}." for reason, number in reasons.items()]
    return found


def _unraced(findings: Findings) -> list[str]:
    """Return the ids of the operations that write and of which no test sent several at the same moment."""
    from tests.harness import contract  # noqa: PLC0415 - as in `_contract`

    return sorted(contract.writing_operations() - findings.raced)


def _places(file: dict[str, Any]) -> str:
    """Return where the lines of a file are that were not run, with the names of the functions that they are in."""
    names: dict[str, list[str]] = {}
    tree = ast.parse((ROOT / file["name"]).read_text("utf-8"))
    for place in file["missing"]:
        line = int(re.match(r"\d+", place)[0])
        around = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0)
        ]
        innermost = max(around, key=lambda node: node.lineno, default=None)
        names.setdefault(innermost.name if innermost else "the module", []).append(place)
    return "; ".join(f"{name} ({', '.join(places)})" for name, places in names.items())


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
