"""A server behind the proxy, and what the proxy's tests ask of a connection."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketStream

from ensync.scopes import background_tasks
from ensync.testing import FaultProxy

BOUND = 20.0

# On loopback, what was written in one turn of the loop is there in the next; a hop of
# the proxy takes a few turns.
MANY_TURNS = 200


@dataclass
class Echo:
    """A server that sends back what it gets, and keeps what it got."""

    port: int
    received: bytearray = field(default_factory=bytearray)
    ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    async def handle(self, stream: SocketStream) -> None:
        async with stream:
            try:
                async for data in stream:
                    self.received += data
                    await stream.send(data)
            except anyio.BrokenResourceError:
                self.received += b"<reset>"
            self.ended.set()


@asynccontextmanager
async def echo_server() -> AsyncIterator[Echo]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, background_tasks() as tasks:
        echo = Echo(listener.extra(SocketAttribute.local_port))
        tasks.start_soon(listener.serve, echo.handle)
        yield echo


def within() -> AbstractContextManager[object]:
    return anyio.fail_after(BOUND)


async def connect(proxy: FaultProxy) -> SocketStream:
    return await anyio.connect_tcp("127.0.0.1", proxy.port)


async def receive_exactly(stream: SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive(size - len(data))
    return data


async def echoes(stream: SocketStream, data: bytes) -> bool:
    await stream.send(data)
    return await receive_exactly(stream, len(data)) == data


async def drain(stream: SocketStream, into: bytearray | None = None) -> None:
    """Receives until the connection ends; a reset raises."""
    async for data in stream:
        if into is not None:
            into += data


async def reset_by_client(stream: SocketStream) -> None:
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await anyio.aclose_forcefully(stream)


async def assert_reset(stream: SocketStream, received: bytes | None = None) -> None:
    got = bytearray()
    with pytest.raises(anyio.BrokenResourceError):
        await drain(stream, got)
    assert received is None or bytes(got) == received


async def many_turns() -> None:
    for _ in range(MANY_TURNS):
        await anyio.lowlevel.checkpoint()


async def assert_silent(stream: SocketStream) -> None:
    """Nothing comes, although the loop has many turns to bring it."""
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await stream.receive())

    async with background_tasks() as tasks:
        tasks.start_soon(receive)
        await many_turns()
    assert received == []


async def eventually(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await anyio.lowlevel.checkpoint()


async def still(value: Callable[[], int]) -> None:
    """Waits until a value has stopped changing: whoever changed it is blocked."""
    before = -1
    while value() != before:
        before = value()
        await many_turns()
