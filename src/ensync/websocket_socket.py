"""Using a connection of the websockets library that may have just ended.

An asyncio transport that was closed with data unsent, and has ended since, fails
with AttributeError when it is aborted, which websockets does whenever a
connection turns out to be over. Here it is over, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosedError

__all__ = ["abort", "close", "ping", "send", "unsent_bytes"]


async def send(connection: Connection, text: str) -> None:
    """Writes a text message, and waits while too much is still to be written.

    Raises:
        ConnectionClosed: The connection is over.
    """
    try:
        await connection.send(text)
    except AttributeError as error:
        raise ConnectionClosedError(None, None) from error


async def ping(connection: Connection) -> Awaitable[float]:
    """Sends a ping; to be awaited again for the pong.

    Raises:
        ConnectionClosed: The connection is over. So does waiting for the pong.
    """
    try:
        return await connection.ping()
    except AttributeError as error:
        raise ConnectionClosedError(None, None) from error


async def close(connection: Connection, code: int = 1000) -> None:
    """Closes with a handshake, within the connection's close_timeout."""
    with suppress(AttributeError):
        await connection.close(code)


def abort(connection: Connection) -> None:
    """Ends a connection at once, whatever is still to be written."""
    with suppress(AttributeError):
        connection.transport.abort()


def unsent_bytes(connection: Connection) -> int:
    """How much was written that the system has not taken yet."""
    with suppress(AttributeError):
        return connection.transport.get_write_buffer_size()
    return 0
