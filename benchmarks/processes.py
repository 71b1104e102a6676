"""Programs that answer each line of input with a line of output."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.cores import started_on

__all__ = ["CHECKOUT", "ProcessError", "TalkingProcess", "running"]

CHECKOUT = Path(__file__).resolve().parents[1]
START_TIMEOUT = 60.0  # seconds
QUIT_TIMEOUT = 10.0  # seconds


class ProcessError(Exception):
    """A program has ended, or does not answer."""


class TalkingProcess:
    """One such program, on one core.

    Args:
        command: What to run, in the checkout.
        core: The core it stays on; None for any.
        with_source: Whether it may import ensync from this checkout. Other SDKs must
            not: one of them has the same name.
    """

    def __init__(self, command: Sequence[str], *, core: int | None, with_source: bool) -> None:
        self._name = " ".join(str(part) for part in command)
        with started_on(core):
            self._process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=_environment(with_source),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_line(self, timeout: float = START_TIMEOUT) -> str:
        """The next line of output.

        Raises:
            ProcessError: There is none in time, or there will be none.
        """
        stdout = self._process.stdout
        assert stdout is not None
        if not self._selector.select(timeout):
            raise ProcessError(f"no answer within {timeout:g} s from: {self._name}")
        line = stdout.readline()
        if not line:
            raise ProcessError(f"ended with code {self._process.wait()}: {self._name}")
        return line.decode().strip()

    def ask(self, line: str, timeout: float = START_TIMEOUT) -> dict[str, Any]:
        """Sends a line, and gives the JSON that comes back.

        Raises:
            ProcessError: Nothing comes back.
        """
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise ProcessError(f"ended: {self._name}") from error
        answer: dict[str, Any] = json.loads(self.read_line(timeout))
        return answer

    def end(self) -> None:
        """Ends its input, and the program if that does not."""
        self._selector.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended by itself, which was told when it was asked
            self._process.stdin.close()
        try:
            self._process.wait(QUIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _environment(with_source: bool) -> Mapping[str, str]:
    inherited = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "PYTHONPATH": str(CHECKOUT / "src")} if with_source else inherited


@contextmanager
def running(
    command: Sequence[str], *, core: int | None, with_source: bool = False
) -> Iterator[TalkingProcess]:
    """A program, for as long as the block is open."""
    process = TalkingProcess(command, core=core, with_source=with_source)
    try:
        yield process
    finally:
        process.end()
