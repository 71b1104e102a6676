"""``ensync keys``: secret keys and app ids, without an engine."""

from __future__ import annotations

from typing import Annotated

import typer

from ensync.cli.failures import WRONG_USE, CommandError
from ensync.cli.output import note, print_env, print_json, print_line
from ensync.cli.settings import SECRET_KEY, Settings
from ensync.cli.standard_input import first_line
from ensync.crypto import SecretKey

__all__ = ["keys_group"]

NO_KEY = "no key: set ENSYNC_SECRET_KEY, or use --stdin"
NO_INPUT = "no key: the first line of standard input is empty"

keys_group = typer.Typer(
    no_args_is_help=True, help="Make secret keys, and look which app one belongs to."
)


@keys_group.command("new")
def new(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Make a secret key, and print it with the app id that belongs to it.

    It is known to no engine: apps of a local engine get theirs from `ensync apps create`.
    """
    key = SecretKey.generate()
    if json:
        print_json({"app_id": key.app_id, "secret_key": key.reveal()})
        return
    print_env({"ENSYNC_SECRET_KEY": key.reveal()})
    note(f"its app id is {key.app_id}")


@keys_group.command("inspect")
def inspect(
    standard_input: Annotated[
        bool, typer.Option("--stdin", help="Read the key from standard input.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the app id of a secret key: of ENSYNC_SECRET_KEY, or of standard input.

    Fails when it can't be a secret key, and says why. The key itself is not shown. It is not
    taken from the command line, where others could read it.
    """
    text = first_line() if standard_input else Settings({}).get(SECRET_KEY)
    if not text:
        raise CommandError(NO_INPUT if standard_input else NO_KEY, WRONG_USE)
    app_id = SecretKey.parse(text).app_id
    print_json({"app_id": app_id}) if json else print_line(app_id)
