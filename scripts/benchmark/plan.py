"""What a measurement is told, and what it returns."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Plan(NamedTuple):
    """What to measure.

    Attributes:
        seconds: Length of one measurement.
        rounds: How often each is made. Rounds alternate, so that a machine that slows down slows all of them.
        orders: How many orders the database has at first.
        length: Length of what is asked for by its length (a soak, chaos, rolling restarts), in seconds.
        threads: Numbers of threads to compare; none for the usual ones.
    """

    seconds: float
    rounds: int
    orders: int
    length: int
    threads: tuple[int, ...]


class Report(NamedTuple):
    """What was measured.

    Attributes:
        about: What the figures hold for.
        columns: Names of the columns.
        lines: The figures: the first of a line is its name.
        notes: Sentences below.
        held: Whether what was promised held; False makes the exit status 1.
    """

    about: dict[str, str]
    columns: Sequence[str]
    lines: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()
    held: bool = True

    def text(self) -> str:
        """Return it for a person."""
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
    """Tell the person who waits what is being done."""
    print(f"bench: {sentence}", file=sys.stderr, flush=True)


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def figure(value: float) -> float | int:
    """Round to what a figure of this size can claim."""
    return round(value) if value >= 100 else round(value, 1 if value >= 10 else 2)
