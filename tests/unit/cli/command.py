"""Runs the ensync command as a process, as its users do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import ensync

COMMAND = (sys.executable, "-m", "ensync")
SOURCE = Path(ensync.__file__).parents[1]
LIMIT = 25.0  # seconds; below the time limit of a test


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, without settings of the developer's own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ENSYNC_")}
    plain = {"PYTHONPATH": str(SOURCE), "NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"}
    return own | plain | dict(variables or {})


def run_command(
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    directory: Path | None = None,
    standard_input: str = "",
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=standard_input,
        capture_output=True,
        text=True,
        env=environment(variables),
        cwd=directory,
        timeout=LIMIT,
        check=False,
    )


@contextmanager
def started_command(
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    directory: Path | None = None,
    launcher: Sequence[str] = (),
) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on by itself; it is killed at the end, should it still run.

    A launcher is a program that becomes the command, in surroundings of its making.
    """
    with subprocess.Popen(
        [*launcher, *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(variables),
        cwd=directory,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def stop(process: subprocess.Popen[str], by: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    """Asks a command to end, and returns what else it wrote."""
    process.send_signal(by)
    return process.communicate(timeout=LIMIT)


def run_redirected(
    redirection: str,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command whose streams a shell has redirected, such as by ``>/dev/full``."""
    script = f'exec "$0" "$@" {redirection}'
    return subprocess.run(
        ["/bin/sh", "-c", script, *COMMAND, *arguments],
        capture_output=True,
        text=True,
        env=environment(variables),
        cwd=directory,
        timeout=LIMIT,
        check=False,
    )
