"""How a command that goes on by itself ends: when a signal asks for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import NoReturn

import anyio

from ensync.cli.failures import INTERRUPTED
from ensync.cli.output import complain, note
from ensync.scopes import serving

__all__ = ["asked_to_end", "turns_until_ctrl_c"]

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@asynccontextmanager
async def asked_to_end() -> AsyncIterator[anyio.Event]:
    """Gives an event that is set by the first SIGINT or SIGTERM, in place of what they do else.

    A second one, while the block is still being left, ends the process at once.
    """
    ending = anyio.Event()
    with anyio.open_signal_receiver(*ENDING_SIGNALS) as signals:

        async def obey() -> None:
            note(f"{(await anext(signals)).name}: ending")
            ending.set()
            _end_at_once((await anext(signals)).name)

        async with serving(obey, name="watch for signals"):
            yield ending


def _end_at_once(by: str) -> NoReturn:
    complain(f"{by}: not waiting for the end any longer")
    # What is being waited for is shielded from cancellation. Whatever was answered is on disk.
    os._exit(INTERRUPTED)


@contextmanager
def turns_until_ctrl_c(pause: float) -> Iterator[Iterator[None]]:
    """Gives a loop its turns, until Ctrl-C, which ends the block without an error.

    Args:
        pause: Seconds between two turns.
    """
    is_interrupted = False

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        nonlocal is_interrupted
        is_interrupted = True
        raise KeyboardInterrupt

    def turns() -> Iterator[None]:
        while True:
            yield
            # Python drops an exception that comes up while an object is being destroyed.
            if is_interrupted:
                return
            time.sleep(pause)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield turns()
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGINT, before)
