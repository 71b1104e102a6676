"""The first step of closing a door: nobody else comes in, and who has come in is known."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

import anyio.lowlevel

from ensync.server.arriving import Arriving

__all__ = ["stop_accepting"]

# A connection is accepted, gets its transport, is made known to its protocol, and if it
# is aborted its socket is closed: each in a turn of the loop.
_TURNS = 5


class _Listening(Protocol):
    """A server of asyncio, or of the websockets library."""

    @property
    def sockets(self) -> Iterable[Any]: ...

    def get_loop(self) -> Any: ...


async def stop_accepting(server: _Listening, arriving: Arriving) -> None:
    """Has a server accept no more, and waits until its protocols know all that it did accept.

    Who is still about to establish TLS is turned away.

    To be called before its close(). A connection that asyncio has accepted by then and not
    yet handed to its protocol would stay open, with nobody to close it.
    """
    for socket in server.sockets:
        # Asyncio's loop on Windows has no readers: it hands over what it accepts at once.
        with suppress(NotImplementedError):
            server.get_loop().remove_reader(socket.fileno())
    await _some_turns()
    arriving.turn_away()
    await _some_turns()


async def _some_turns() -> None:
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()
