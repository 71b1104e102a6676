"""An interrupt, at whichever moment, ends a program by itself, and leaves nothing behind.

ENSYNC_INTERRUPTS says how many times each program is interrupted, and
ENSYNC_INTERRUPTS_SEED at which moments.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.faults import interruptible

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

INTERRUPTS = int(os.environ.get("ENSYNC_INTERRUPTS", "5"))
SEED = int(os.environ.get("ENSYNC_INTERRUPTS_SEED", "1"))

LATEST = 0.1  # seconds of work before an interrupt
EXIT_LIMIT = 20.0
# On trio an interrupt may come in the middle of a client's books: then it waits for an
# acknowledgement in vain, for as long as leaving may take, and says so.
IN_THE_BOOKS = re.compile(r"left 'orders' with \d+ acknowledgements unconfirmed: .*\n")


class Interruptible:
    """The program, in a process of its own."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._output = BufferedByteReceiveStream(process.stdout)

    async def line(self) -> str:
        with anyio.fail_after(EXIT_LIMIT):
            return (await self._output.receive_until(b"\n", 1000)).decode()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    async def end(self) -> tuple[int, str]:
        """Waits for it; returns its exit code and what it complained of."""
        assert self._process.stderr is not None
        with anyio.fail_after(EXIT_LIMIT):
            complaints = [text.decode() async for text in self._process.stderr]
            return await self._process.wait(), "".join(complaints)


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[Interruptible]:
    command = [sys.executable, "-W", "error", interruptible.__file__, *arguments]
    async with await anyio.open_process(command) as process:
        try:
            yield Interruptible(process)
        finally:
            if process.returncode is None:
                process.kill()


@pytest.mark.timeout(30 + 5 * INTERRUPTS)
@pytest.mark.parametrize("work", ["idle", "busy"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"], ids=["by-asyncio", "by-trio"])
async def test_nothing_is_left_of_an_interrupted_program(
    transport: str, backend: str, work: str
) -> None:
    rng = random.Random(SEED)
    left: set[str] = set()
    async with program(backend, transport, work, str(INTERRUPTS)) as process:
        for _ in range(INTERRUPTS):
            assert await process.line() == "ready"
            await anyio.sleep(rng.random() * LATEST)
            process.interrupt()
            left.add(await process.line())
        code, complaints = await process.end()
    assert (code, IN_THE_BOOKS.sub("", complaints)) == (0, "")
    assert len(left) == 1, "something is left of some of them"
