"""What a run of the whole suite has to show beside green tests: every documented answer seen, and the code covered.

Both come from the ordinary run: answers are noted by the contract check (`tests.harness.contract`), lines and branches
by coverage.py, in this process and in all that it starts.
"""

import atexit
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import binding
from tests.harness.findings import Findings

ROOT = Path(__file__).resolve().parents[2]
# The least share of the project's lines and branches that the whole suite runs, in percent.
LEAST = binding.LEAST_COVERAGE
SWITCH = "COVERAGE_PROCESS_CONFIG"  # in the environment of processes that coverage.py is to measure


@dataclass(frozen=True)
class File:
    """How much of a file was run; `missing` has lines as "7" or "7-9" and branches as "7->12" or "7->exit"."""

    name: str
    percent: float
    missing: Sequence[str]


@dataclass(frozen=True)
class CodeCoverage:
    """How much of the project was run: in percent of its lines and branches together, and by file."""

    percent: float
    lines: int
    branches: int
    files: Sequence[File]


@contextmanager
def unmeasured() -> Iterator[None]:
    """Leave out processes that start in the block: what outlives the measurement would have nowhere to write to."""
    switch = os.environ.pop(SWITCH, None)
    try:
        yield
    finally:
        if switch is not None:
            os.environ[SWITCH] = switch


class Measurement:
    """The measurement of a run; begun before anything of the project is imported."""

    def __init__(self) -> None:
        from coverage import Coverage  # noqa: PLC0415 - it takes a while, and most runs measure nothing.

        folder = Path(tempfile.mkdtemp(prefix=f"{binding.NAME}-coverage-"))
        atexit.register(shutil.rmtree, folder)
        self._data = folder / "data"
        settings = ROOT / "pyproject.toml"
        if not settings.exists() or "[tool.coverage" not in settings.read_text("utf-8"):
            # Measuring child processes needs a file.
            settings = folder / "coveragerc"
            settings.touch()
        self._coverage = Coverage(
            config_file=str(settings),
            data_file=str(self._data),
            data_suffix=True,
            branch=True,
            source=[binding.PACKAGE],
        )
        # Also in the workers, and in all that tests start.
        self._coverage.set_option("run:parallel", True)
        self._coverage.set_option("run:patch", ["subprocess", "fork", "_exit"])
        self._coverage.set_option("run:disable_warnings", ["no-data-collected"])
        self._coverage.start()

    def end(self) -> CodeCoverage:
        """Return what all processes together have run."""
        from coverage.exceptions import CoverageWarning  # noqa: PLC0415

        self._coverage.stop()
        self._coverage.save()
        with warnings.catch_warnings():
            # Tests kill processes, also while they write what they have run: that is left out.
            warnings.simplefilter("ignore", CoverageWarning)
            self._coverage.combine()
        summary = self._data.with_name("summary.json")
        self._coverage.json_report(outfile=str(summary))
        found = json.loads(summary.read_text())
        files = [
            File(name, each["summary"]["percent_covered"], _missing(each["missing_lines"], each["missing_branches"]))
            for name, each in sorted(found["files"].items())
        ]
        totals = found["totals"]
        return CodeCoverage(totals["percent_covered"], totals["num_statements"], totals["num_branches"], files)


def shortfalls(findings: Findings, code: CodeCoverage) -> list[str]:
    """Return, in words, what a run of the whole suite should have shown and has not."""
    # The contract needs the application, whose import has to be measured.
    from tests.harness import contract  # noqa: PLC0415

    short = [
        f"{operation} {status} {code or 'success'}: documented, never seen"
        for operation, status, code in contract.never_seen(findings.answers.keys())
    ]
    short += never_tried(findings)
    if code.percent < LEAST:
        worst = sorted(code.files, key=lambda file: -len(file.missing))[:5]
        found = f"{code.percent:.1f} % of the lines and branches of {binding.PACKAGE}/ were run"
        short.append(f"{found}, and {LEAST:.0f} % have to be")
        short += [f"  {file.name}: not run {', '.join(file.missing)}" for file in worst]
    return short


def never_tried(findings: Findings) -> list[str]:
    """Return the cells of the access matrix that no test tried."""
    return [
        f"{operation} by {caller}: in the access matrix, never tried"
        for operation, row in (binding.policy() or {}).items()
        for caller in row
        if (operation, caller) not in findings.access
    ]


def _missing(lines: Sequence[int], branches: Sequence[tuple[int, int]]) -> list[str]:
    """Return lines as ranges, and the branches that begin in other lines, in their order."""
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    found = [(first, f"{first}-{last}" if last > first else str(first)) for first, last in ranges]
    found += [
        (start, f"{start}->{end if end > 0 else 'exit'}") for start, end in branches if not {start, end} & set(lines)
    ]
    return [text for _, text in sorted(found)]


def is_whole(arguments: Sequence[str]) -> bool:
    """Tell whether unittest, given these arguments here, runs all tests of the project: none named, none left out."""
    names = [word for word in arguments if not word.startswith("-") or word.startswith("-k")]
    return not names and Path.cwd() == ROOT and not {"-h", "--help", "--"} & set(arguments)
