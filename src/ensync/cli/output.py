"""Where the command writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

__all__ = ["complain", "note", "out", "print_env", "print_json", "print_value", "to_stderr"]

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


def print_env(variables: Mapping[str, str]) -> None:
    """Lines for a ``.env`` file, on standard output."""
    for name, value in variables.items():
        typer.echo(f"{name}={value}")


def print_value(value: Any) -> None:
    """A JSON value for people to read."""
    out.print_json(json.dumps(value, ensure_ascii=False), indent=2)
