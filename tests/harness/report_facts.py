"""The facts of a report, as plain data. Each follows from the verdicts and findings of the run."""

import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from tests import binding
from tests.harness import gates, order
from tests.harness.findings import Findings
from tests.harness.report_advice import recommendations
from tests.harness.results import FIXTURES

OUTCOMES = {"passed": "passed", "failed as expected": "passed", "skipped": "skipped"}  # any other verdict: failed
SLOWEST = 10
# The tests in modules of this name show flows: their sentences are listed.
FLOWS = "test_flows"
# What the harness measures. The keys are the names that `tests.harness.findings` has for it.
KINDS = {
    "requests": "HTTP requests in the test process",
    "database": "SQL statements",
    "hashing": "password hashing",
    "requests over TCP": "HTTP requests to a running server",
    "server processes": "starting, stopping and running the command",
    "sandbox": "entering and leaving the sandbox",
    "deletion of committed rows": "deleting committed rows",
    "contract checks": "checking responses against the OpenAPI document",
}
# What is left of each phase when the above is subtracted.
REST = {"fixtures": "other fixtures, start of the database server included", "tests": "other code of the tests"}


@dataclass(frozen=True)
class Test:
    """A test or fixture and its result."""

    name: str
    module: str
    classname: str
    sentence: str  # what the test shows
    verdict: str  # in unittest's words
    seconds: float
    text: str  # the traceback of a failure, or the reason of a skip
    outcome: str = field(init=False)  # the verdict, reduced to passed, failed or skipped
    headline: str = field(init=False)  # the line of the text that says what is wrong

    def __post_init__(self) -> None:
        # The traceback is indented, and what follows the exception is advice.
        error = re.search(r"^(?!Traceback|\s)[\w.]+(: .*)?$", self.text, re.M)
        lines = self.text.splitlines() or [""]
        object.__setattr__(self, "outcome", OUTCOMES.get(self.verdict, "failed"))
        object.__setattr__(self, "headline", error[0] if error and len(lines) > 1 else lines[0])


def gather(program: Any, tests: Sequence[Test], *, started: datetime, commit: str) -> dict[str, Any]:
    """Return everything that the report says of a run of `tests.harness.runner`."""
    findings: Findings = program.report.findings
    facts = {
        "summary": _summary(program, tests, started),
        "environment": dict(_environment(commit)),
        "tests": [asdict(test) for test in tests],
        "flows": [test.sentence for test in tests if test.module.endswith(FLOWS)],
        "shortfalls": list(program.shortfalls),
        "code": program.coverage and asdict(program.coverage),
        "contract": _contract(findings),
        "access": _access(findings),
        "time": _time(program.report.seconds, findings),
    }
    facts["scope"] = dict(_scope(facts, findings))
    facts["recommendations"] = recommendations(facts)
    return facts


def _summary(program: Any, tests: Sequence[Test], started: datetime) -> dict[str, Any]:
    outcomes = Counter(test.outcome for test in tests)
    if failed := outcomes["failed"]:
        headline = f"{failed} of {len(tests)} tests failed"
    elif program.shortfalls:
        headline = "All tests passed, but the suite does not show enough"
    elif program.status:
        headline = "The run did not succeed"
    else:
        headline = f"All {outcomes['passed']} tests passed" if outcomes["passed"] else "No test ran"
    return {
        "project": binding.NAME,
        "package": binding.PACKAGE,
        "least": gates.LEAST,
        "headline": headline,
        **{outcome: outcomes[outcome] for outcome in ("passed", "failed", "skipped")},
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "seconds": (datetime.now(UTC) - started).total_seconds(),
        "status": program.status,
        "complete": program.coverage is not None,
    }


def _environment(commit: str) -> Iterator[tuple[str, str]]:
    yield "Commit", commit
    postgres, cases = (sys.modules.get(f"tests.harness.{name}") for name in ("postgres", "cases"))
    if postgres and postgres.server.cache_info().currsize:
        yield "Database", postgres.server().described
    if cases and cases.run_seed.cache_info().currsize:
        yield "Isolation", "each test is rolled back in a sandbox; tests that need real commits have them"
        yield "Seed of the factories", cases.run_seed()
    yield "Order of the tests", f"shuffled with seed {order.seed}" if order.seed is not None else "as written"
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}"
    yield "System", f"{platform.system()} {platform.release()}, {os.cpu_count()} processors"
    yield "Packages", ", ".join(f"{name} {_version(name)}" for name in binding.REQUIREMENTS)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _contract(findings: Findings) -> dict[str, Any] | None:
    """Return the matrix of operations and documented responses; None when no test sent a request."""
    if not findings.answers:
        return None
    from tests.harness import contract  # noqa: PLC0415 - imports the application, which this run may not need

    documented = contract.described_answers()
    columns = sorted({(status, code) for _, status, code in documented}, key=str)

    def cell(response: tuple[str, int, str | None]) -> dict[str, Any] | None:
        if response not in documented:
            return None
        return {"seen": findings.answers[response], "reason": contract.NOT_TO_BE_SEEN.get(response, "")}

    return {
        "columns": [f"{status} {code or ''}".strip() for status, code in columns],
        "rows": {
            operation: [cell((operation, status, code)) for status, code in columns]
            for operation in sorted({operation for operation, *_ in documented})
        },
        "documented": len(documented),
        "seen": len(documented & findings.answers.keys()),
        "never": sorted(contract.never_seen(findings.answers.keys()), key=str),
        "not_raced": sorted(contract.writing_operations() - findings.raced),
    }


def _access(findings: Findings) -> dict[str, Any] | None:
    """Return the matrix of operations and callers; None when no test tried them."""
    if not findings.access:
        return None
    callers = list(dict.fromkeys(caller for _, caller in findings.access))
    operations = list(dict.fromkeys(operation for operation, _ in findings.access))
    return {
        "columns": callers,
        "rows": {each: [findings.access.get((each, caller), "") for caller in callers] for each in operations},
    }


def _time(seconds: Mapping[str, float], findings: Findings) -> dict[str, Any]:
    """Return where the time went, the slowest tests, and the cost of the sandbox."""
    spent = {words: findings.spent_on(kind) for kind, words in KINDS.items()}
    for phase, words in REST.items():
        total = sum(each for name, each in seconds.items() if name.startswith(FIXTURES) == (phase == "fixtures"))
        measured = sum(each for (where, _), each in findings.seconds.items() if where == phase)
        spent[words] = max(0.0, total - measured)
    sandbox = findings.spent_on("sandbox")
    return {
        "total": sum(seconds.values()),
        "kinds": [(words, each) for words, each in _slowest_first(spent) if each],
        "slowest": _slowest_first(seconds)[:SLOWEST],
        "sandboxes": findings.sandboxes,
        "sandbox_ms": 1000 * sandbox / findings.sandboxes if findings.sandboxes else 0.0,
    }


def _slowest_first(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def _scope(facts: Mapping[str, Any], findings: Findings) -> Iterator[tuple[str, str]]:
    """Yield the integration points that this run tested, as names and sentences."""
    contract, access, code = facts["contract"], facts["access"], facts["code"]
    if contract:
        called = sum(any(cell and cell["seen"] for cell in row) for row in contract["rows"].values())
        sent = f"{called} of {len(contract['rows'])} operations sent {findings.answers.total():,} responses"
        yield "Endpoints", f"{sent}. Each was checked against the OpenAPI document."
    if findings.statements:
        yield "Database", f"The application ran {findings.statements:,} SQL statements on a real PostgreSQL."
    if access:
        operations, callers = len(access["rows"]), ", ".join(access["columns"])
        yield "Authentication", f"{operations} operations were tried by each kind of caller: {callers}."
    if findings.raced:
        yield "Races", f"Concurrent requests with real commits: {', '.join(sorted(findings.raced))}."
    if findings.received:
        ways = ", ".join(sorted(findings.received))
        sent = f"The application sent {findings.received.total():,} requests to receivers on loopback"
        yield "External services", f"{sent}, which answered: {ways}."
    if findings.files:
        kinds = ", ".join(f"{number:,} {ending}" for ending, number in sorted(findings.files.items()))
        yield "Written files", f"Files in temporary directories: {kinds}."
    if code:
        whole = sum(not file["missing"] for file in code["files"])
        yield "Files", f"{len(code['files'])} files of {binding.PACKAGE}/, {whole} of them completely covered."
    modules = Counter(test["module"] for test in facts["tests"])
    tiers = Counter(".".join(test["module"].split(".")[:2]) for test in facts["tests"])
    each = ", ".join(f"{number} in {tier}" for tier, number in sorted(tiers.items()))
    yield "Tests", f"{len(facts['tests'])} tests in {len(modules)} modules: {each}."
