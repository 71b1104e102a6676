"""The ``ensync`` command. It needs the extra ``cli``."""

from __future__ import annotations

import sys

__all__ = ["main"]

_NEEDED = ("rich", "typer")


def main() -> None:
    """Runs the command with the arguments of this process; its end is the process's."""
    try:
        from ensync.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.exit(
            f"the ensync command needs {error.name}, which is not installed: "
            "pip install 'ensync[cli]'"
        )
    run()
