"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from ensync import __version__
from ensync.cli.demo_command import demo_command
from ensync.cli.running import EXIT_CODES

__all__ = ["app", "run"]

app = typer.Typer(
    name="ensync",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ensync {__version__}")
        raise typer.Exit


@app.callback()
def ensync(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Publish and consume end-to-end encrypted events, and run an engine of your own."""


app.command("demo")(demo_command)


def run() -> None:
    """Runs the command that this process was started for."""
    app()
