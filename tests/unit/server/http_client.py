"""Speaks HTTP to a local port, as raw as a test wants it."""

from __future__ import annotations

import anyio


async def talk(port: int, sent: bytes) -> bytes:
    """What is answered to these bytes, until the other side closes."""
    received = b""
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(sent)
            await stream.send_eof()
            try:
                async for chunk in stream:
                    received += chunk
            except anyio.BrokenResourceError:
                return received  # closed without having read all
    return received
