"""Standard input, read so that a wait for it can be cancelled."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncGenerator

import anyio
import anyio.to_thread

from ensync.cli.failures import WRONG_USE, CommandError

__all__ = ["StandardInput", "first_line"]

_CHUNK = 1 << 16


class StandardInput:
    """The lines of standard input.

    Attributes:
        read_bytes: How much has been read.
        total_bytes: How much there is in all, if that is known: of a regular file.
        is_terminal: Whether somebody types them.
        taken: How many lines were taken.

    Raises:
        CommandError: It is closed.
    """

    def __init__(self) -> None:
        self._descriptor = _descriptor()
        self._can_be_waited_for = True
        self.read_bytes = 0
        self.taken = 0
        self._line_ends = 0
        self._is_within_line = False
        self.total_bytes = _rest_of_file(self._descriptor)
        self.is_terminal = os.isatty(self._descriptor)

    async def lines(self) -> AsyncGenerator[bytes]:
        """Each line, without its end."""
        begun: list[bytes] = []
        while chunk := await self._read():
            *ended, rest = chunk.split(b"\n")
            for end in ended:
                self.taken += 1
                yield b"".join([*begun, end])
                begun.clear()
            begun.append(rest)
        if any(begun):
            self.taken += 1
            yield b"".join(begun)

    async def count_left(self) -> int | None:
        """How many lines were not taken; None: that can't be known."""
        if self.total_bytes is None:
            return None
        while await self._read():
            pass
        return max(0, self._line_ends + self._is_within_line - self.taken)

    async def _read(self) -> bytes:
        chunk = await self._read_some()
        self.read_bytes += len(chunk)
        self._line_ends += chunk.count(b"\n")
        self._is_within_line = not chunk.endswith(b"\n") if chunk else self._is_within_line
        return chunk

    async def _read_some(self) -> bytes:
        # A thread that waits in a read can't be stopped, and the interpreter would wait for it.
        if self._can_be_waited_for:
            try:
                await anyio.wait_readable(self._descriptor)
            except OSError:  # a file, which is always ready
                self._can_be_waited_for = False
        try:
            return await anyio.to_thread.run_sync(os.read, self._descriptor, _CHUNK)
        except OSError as error:
            raise CommandError(f"standard input can't be read: {error.strerror}") from error


def first_line() -> str:
    """The first line of standard input; what is no text in it is replaced.

    Raises:
        CommandError: It is closed.
    """
    _descriptor()
    return sys.stdin.buffer.readline().decode(errors="replace").strip()


def _descriptor() -> int:
    # It is None when whoever started the process has closed it.
    if sys.stdin is None:
        raise CommandError("standard input is closed", WRONG_USE)
    return sys.stdin.fileno()


def _rest_of_file(descriptor: int) -> int | None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return None
    return max(0, status.st_size - os.lseek(descriptor, 0, os.SEEK_CUR))
