"""Where the command writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.text import Text

__all__ = ["complain", "note", "out", "print_json", "to_stderr"]

out = Console(highlight=False, soft_wrap=True)
to_stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Tells something on standard error."""
    to_stderr.print(Text(text))


def complain(text: str) -> None:
    """Tells on standard error what went wrong."""
    to_stderr.print(Text("error: ", style="bold red") + Text(text))


def print_json(value: object) -> None:
    """One line of JSON on standard output, at once."""
    typer.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
