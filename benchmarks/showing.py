"""Shows tables and progress: with rich where it is installed, else as plain text."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.tables import Table

__all__ = ["as_markdown", "progress_bar", "show"]

WIDTH_IN_FILES = 200
HAS_RICH = importlib.util.find_spec("rich") is not None


def show(table: Table) -> None:
    """Prints a table on standard output."""
    if HAS_RICH:
        _show_rich(table)
    else:
        print(_as_text(table))


def _show_rich(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(title=table.title, caption="\n".join(table.notes), title_justify="left")
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
    for row in table.rows:
        drawn.add_row(*row)
    terminal = Console()
    # A file has no width: nothing needs to be cut off there.
    console = terminal if terminal.is_terminal else Console(width=WIDTH_IN_FILES)
    console.print(drawn)
    console.print()


def _as_text(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    lines = [_text_row(row, widths) for row in (table.columns, *table.rows)]
    return "\n".join([table.title, *lines, *table.notes, ""])


def _text_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.rjust(width) if number else cell.ljust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def as_markdown(table: Table) -> str:
    """A table for a Markdown page."""
    rule = ("---", *("---:" for _ in table.columns[1:]))
    rows = "\n".join(f"| {' | '.join(row)} |" for row in (table.columns, rule, *table.rows))
    notes = "".join(f"\n\n{note}" for note in table.notes)
    return f"**{table.title}**\n\n{rows}{notes}\n"


@contextmanager
def progress_bar(steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on standard error, and the function that moves it on."""
    if not HAS_RICH:
        yield _plain_progress(steps)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # Drawn when something has happened: a thread that draws takes time from what is measured.
    console = Console(stderr=True)
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=steps)
        done = -1

        def step(what: str) -> None:
            nonlocal done
            done += 1
            progress.update(task, completed=done, description=what, refresh=console.is_terminal)

        yield step


def _plain_progress(steps: int) -> Callable[[str], None]:
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"{done}/{steps}  {what:<70}", end=end, file=sys.stderr, flush=True)

    return step
