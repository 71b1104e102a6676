"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from ensync import __version__
from ensync.cli.apps import apps_group
from ensync.cli.demo_command import demo_command
from ensync.cli.doctor import doctor_command
from ensync.cli.failures import EXIT_CODES
from ensync.cli.keys import keys_group
from ensync.cli.publish import publish_command
from ensync.cli.replay import replay_command
from ensync.cli.serve import serve_command
from ensync.cli.status import status_command
from ensync.cli.subscribe import subscribe_command

__all__ = ["app", "run"]

app = typer.Typer(
    name="ensync",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    # By default, typer breaks its text where the lines of a docstring end.
    rich_markup_mode="markdown",
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
app.command("serve")(serve_command)
app.add_typer(apps_group, name="apps")
app.add_typer(keys_group, name="keys")
app.command("publish")(publish_command)
app.command("subscribe")(subscribe_command)
app.command("replay")(replay_command)
app.command("status")(status_command)
app.command("doctor")(doctor_command)


def run() -> None:
    """Runs the command that this process was started for."""
    app()
