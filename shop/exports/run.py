"""An export from the database to a file, with its progress on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from shop.domain import exports
from shop.domain.exports import Selection
from shop.exports.files import opened
from shop.exports.formats import FORMATS


def export_orders(selection: Selection, *, format_: str, target: str) -> int:
    """Write orders to a file or stdout, and return how many.

    Args:
        selection: Which orders.
        format_: One of `FORMATS`.
        target: A path, or ``-`` for stdout.

    Raises:
        shop.exports.files.CannotWrite: The file cannot be written. An older file keeps its content.
        shop.storage.database.Error: The database refused, or is gone.
    """
    encode = FORMATS[format_]
    done = 0
    with opened(target) as file, exports.transaction(), _progress(selection) as advance:
        for batch in exports.batches(selection):
            file.write(encode(batch, not done))
            done += len(batch)
            advance(len(batch))
        if not done:
            file.write(encode([], True))
    return done


class _Rate(ProgressColumn):
    """Orders a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


@contextmanager
def _progress(selection: Selection) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if that is a terminal; yield what counts further orders."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("orders"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=exports.count(selection))
        yield lambda number: bar.update(task, advance=number)
