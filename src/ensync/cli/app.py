"""The tree of commands."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ensync import __version__
from ensync.cli.apps import apps_group
from ensync.cli.demo_command import demo_command
from ensync.cli.doctor import doctor_command
from ensync.cli.failures import EXIT_CODES
from ensync.cli.keys import keys_group
from ensync.cli.output import prepare_streams
from ensync.cli.publish import publish_command
from ensync.cli.replay import replay_command
from ensync.cli.running import user_errors
from ensync.cli.serve import serve_command
from ensync.cli.status import status_command
from ensync.cli.subscribe import subscribe_command
from ensync_command import leave

__all__ = ["app", "run"]

# Put before a reason where pydantic is there to find it.
_NOISE = "Value error, "


class _Commands(TyperGroup):
    """All commands: what fails in any of them is told in one line."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Reads what comes before the name of a command; `--help` writes, which may fail."""
        with user_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Reads the rest, and runs the command."""
        with _interrupts_raised(), user_errors(), _without_noise():
            return super().invoke(ctx)


@contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Has Ctrl-C raise KeyboardInterrupt, for as long as there is somebody to catch it."""
    if signal.getsignal(signal.SIGINT) is not leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, leave)


@contextmanager
def _without_noise() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        if isinstance(message, str):  # typer's, of a wrong argument
            vars(error)["message"] = message.removeprefix(_NOISE)
        raise


app = typer.Typer(
    name="ensync",
    cls=_Commands,
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
    prepare_streams()
    app()
