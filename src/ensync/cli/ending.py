"""How a command that serves ends: in order when a signal asks for it, at once when another does."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio

from ensync.cli.failures import INTERRUPTED
from ensync.cli.output import complain, note
from ensync.scopes import serving

__all__ = ["asked_to_end"]

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
