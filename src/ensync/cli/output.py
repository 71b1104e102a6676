"""Where the command writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import typer
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from ensync.cli.failures import CommandError
from ensync.cli.wording import json_text, printable

__all__ = [
    "complain",
    "note",
    "out",
    "prepare_streams",
    "print_env",
    "print_json",
    "print_line",
    "print_value",
    "shown",
    "to_stderr",
]

out = Console(highlight=False, soft_wrap=True)
to_stderr = Console(stderr=True, highlight=False, soft_wrap=True)

_highlight = JSONHighlighter()


def prepare_streams() -> None:
    """Has characters that an output can't write be written as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shown(text: str, style: str = "") -> Text:
    """Text of somebody else's, for rich: neither markup nor the terminal's codes count in it."""
    return Text(printable(text), style=style)


def note(text: str) -> None:
    """Tells something on standard error."""
    _tell(shown(text))


def complain(text: str) -> None:
    """Tells on standard error what went wrong."""
    _tell(Text("error: ", style="bold red") + shown(text))


def _tell(text: Text) -> None:
    # What can't be told must not keep from being done what is told of.
    with suppress(OSError):
        to_stderr.print(text)


def print_json(value: object) -> None:
    """One line of JSON on standard output, at once."""
    print_line(json_text(value, encoding=_encoding()))


def print_env(variables: Mapping[str, str]) -> None:
    """Lines for a ``.env`` file, on standard output."""
    for name, value in variables.items():
        print_line(f"{name}={value}")


def print_value(value: Any) -> None:
    """A JSON value for people to read."""
    text = Text(json_text(value, indent=2, encoding=_encoding()))
    _highlight.highlight(text)
    out.print(text)


def print_line(text: str) -> None:
    """A line on standard output, at once."""
    # It is None when whoever started the process has closed it: what is printed would be lost.
    if sys.stdout is None:
        raise CommandError("can't write the output: standard output is closed")
    typer.echo(text)


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"
