"""Runs the ensync command within the process of the tests, which is faster than one of its own."""

from __future__ import annotations

from collections.abc import Mapping

from typer.testing import CliRunner

from ensync.cli.app import app


class Done:
    """How a command ended."""

    def __init__(self, returncode: int, stdout: str, stderr: str) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


def invoke(*arguments: str, variables: Mapping[str, str] | None = None) -> Done:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", **(variables or {})})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)
