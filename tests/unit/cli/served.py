"""`ensync serve` as a process, and commands that use it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.unit.cli.command import run_command, started_command

ANY_PORT = ("--port", "0", "--ws-port", "0")


class Served:
    """A running engine, with the variables that its clients need."""

    def __init__(self, process: subprocess.Popen[str], told: Any) -> None:
        self.process = process
        self.told = told
        self.variables = {
            "ENSYNC_URL": told["url"],
            "ENSYNC_WS_URL": told["websocket_url"],
            "ENSYNC_ADMIN_URL": told["admin_url"],
        }
        if told["app"] is not None:
            self.variables["ENSYNC_APP_KEY"] = told["app"]["app_key"]
            self.variables["ENSYNC_SECRET_KEY"] = told["app"]["secret_key"]

    @property
    def app_id(self) -> str:
        app_id: str = self.told["app"]["app_id"]
        return app_id

    def run(
        self, *arguments: str, standard_input: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return run_command(
            *arguments, variables=self.variables | variables, standard_input=standard_input
        )

    def json(self, *arguments: str, **variables: str) -> Any:
        """What a command that succeeds prints as JSON."""
        done = self.run(*arguments, "--json", **variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def served(*arguments: str, launcher: Sequence[str] = ()) -> Iterator[Served]:
    command = ("serve", *ANY_PORT, "--json", *arguments)
    with started_command(*command, launcher=launcher) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Served(process, json.loads(line))
