"""The arguments of a measurement, and its result."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Plan(NamedTuple):
    """The arguments of a measurement.

    Attributes:
        seconds: The length of one measurement.
        rounds: How often each is repeated. Rounds alternate, so that a machine that slows down slows all of them.
        orders: The number of orders in the database at the start.
        length: The length of a soak, of chaos, or of rolling restarts, in seconds.
    """

    seconds: float
    rounds: int
    orders: int
    length: int


class Report(NamedTuple):
    """The result of a measurement.

    Attributes:
        about: The conditions: date, machine, database, load.
        columns: The names of the columns.
        lines: The figures; each line starts with its name.
        notes: Sentences below the table.
        passed: Whether the service kept its promises; False makes the exit status 1.
    """

    about: dict[str, str]
    columns: Sequence[str]
    lines: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()
    passed: bool = True

    def text(self) -> str:
        """Return the report as a table."""
        cells = [[str(cell) for cell in line] for line in (self.columns, *self.lines)]
        widths = [max(len(line[number]) for line in cells) for number in range(len(self.columns))]
        table = [
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in cells
        ]
        about = [f"{name}: {value}" for name, value in self.about.items()]
        return "\n".join([*about, "", *table, *(["", *self.notes] if self.notes else [])])


def say(sentence: str) -> None:
    """Print what the benchmark is doing."""
    print(f"bench: {sentence}", file=sys.stderr, flush=True)


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def figure(value: float) -> float | int:
    """Round to two or three significant digits."""
    return round(value) if value >= 100 else round(value, 1 if value >= 10 else 2)
