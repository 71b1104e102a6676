"""One connection through the proxy: two sockets, and a pipe each way between them."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ensync.testing.wire import Direction, Wire

__all__ = ["Connection"]

# What a pipe holds at most is the product of the two: half a megabyte.
CHUNK_SIZE = 32 * 1024
CHUNKS_HELD = 16

# A slow network takes few kilobytes at a time; a system takes a hundred in one go.
NARROW_BUFFER = 32 * 1024

CLOSE_BY_RESET = struct.pack("ii", 1, 0)  # linger for 0 seconds


class _Chunk(NamedTuple):
    departed: float
    data: bytes


class Connection:
    """A client's connection, and the one that the proxy has opened to the engine for it.

    Attributes:
        number: Which it is, of all that were accepted.
        dropping: The directions in which it is a black hole, and maybe it alone.
    """

    def __init__(
        self,
        client: socket.socket,
        wires: Mapping[Direction, Wire],
        buffer_size: int | None,
        number: int,
    ) -> None:
        self.number = number
        self.dropping: set[Direction] = set()
        self._sockets: list[socket.socket] = []
        self._buffer_size = buffer_size
        self._client = self._prepared(client)
        self._wires = wires
        self._pipes: dict[Direction, _Pipe] = {}
        self._scope = anyio.CancelScope()

    async def run(self, host: str, port: int) -> None:
        """Forwards until both directions have ended, or reset() is called."""
        try:
            with self._scope:
                await self._forward(host, port)
        finally:
            for each in self._sockets:
                each.close()

    def reset(self) -> None:
        """Ends both sides with a reset (RST); nothing moves any more."""
        for each in self._sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_BY_RESET)
        self._scope.cancel()

    def close(self) -> None:
        """Ends both directions in an orderly way (FIN); what still comes is dropped."""
        if not self._pipes:
            self._scope.cancel()
        for direction in self._pipes:
            self.finish(direction)

    def finish(self, direction: Direction) -> None:
        """Tells the receiver of a direction that no more will come (FIN)."""
        if direction in self._pipes:
            self._pipes[direction].finish()

    async def _forward(self, host: str, port: int) -> None:
        try:
            engine = await self._connect(host, port)
        except OSError:
            # The engine is not there: the client is to see a broken connection too.
            self.reset()
            return
        ends: dict[Direction, tuple[socket.socket, socket.socket]] = {
            "upstream": (self._client, engine),
            "downstream": (engine, self._client),
        }
        for direction, (source, sink) in ends.items():
            wire = self._wires[direction]
            self._pipes[direction] = _Pipe(self, direction, wire, source, sink)
        async with anyio.create_task_group() as tasks:
            for direction, pipe in self._pipes.items():
                tasks.start_soon(pipe.run, name=f"ensync fault proxy, {direction}")

    async def _connect(self, host: str, port: int) -> socket.socket:
        addresses = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure = OSError(f"{host} has no address")
        for family, _, _, _, address in addresses:
            engine = self._prepared(socket.socket(family, socket.SOCK_STREAM))
            code = engine.connect_ex(address)
            if code == errno.EINPROGRESS:
                await anyio.wait_writable(engine)
                code = engine.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return engine
            failure = OSError(code, f"no connection to {host}:{port}")
        raise failure

    def _prepared(self, raw: socket.socket) -> socket.socket:
        self._sockets.append(raw)
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._buffer_size is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_size)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_size)
        return raw


class _Pipe:
    """Moves bytes from one socket to another, as the wire lets them.

    Reading and writing are two tasks with a short queue between them, so that a
    delay is added to each chunk's way and not to the next chunk's start.
    """

    def __init__(
        self,
        connection: Connection,
        direction: Direction,
        wire: Wire,
        source: socket.socket,
        sink: socket.socket,
    ) -> None:
        self._connection = connection
        self._direction: Direction = direction
        self._wire = wire
        self._source = source
        self._sink = sink
        self._finished = False
        self._lossy = False
        self._wide_buffer: int | None = None
        self._reading, self._writing = _Pace(wire), _Pace(wire)

    async def run(self) -> None:
        """Moves bytes until their sender has ended."""
        send, receive = anyio.create_memory_object_stream[_Chunk](CHUNKS_HELD)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, send, name="ensync fault proxy, reading")
            await self._write(receive)

    def finish(self) -> None:
        """Tells the receiver that no more will come."""
        if self._finished:
            return
        self._finished = True
        with suppress(OSError):  # the receiver may be gone already
            self._sink.shutdown(socket.SHUT_WR)

    async def _read(self, queue: MemoryObjectSendStream[_Chunk]) -> None:
        with queue:
            # Who sends is held back to the same pace: there is no room in a slow network.
            while data := await self._receive():
                self._reading.took(len(data))
                self._wire.read_total += len(data)
                self._wire.progress.notify()
                await queue.send(_Chunk(anyio.current_time(), data))

    async def _receive(self) -> bytes:
        while True:
            await anyio.wait_readable(self._source)
            await self._wire.flowing()
            await self._reading.turn()
            self._narrow_or_widen()
            try:
                return self._source.recv(self._wire.step(CHUNK_SIZE))
            except BlockingIOError:
                continue
            except OSError:
                await self._broken()
                return b""

    def _narrow_or_widen(self) -> None:
        is_narrow = self._wide_buffer is not None
        if is_narrow == (self._wire.rate is not None):
            return
        size = NARROW_BUFFER
        if self._wide_buffer is None:
            # Linux says twice of what is to be set.
            wide = self._source.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
            self._wide_buffer, size = wide, min(NARROW_BUFFER, wide)
        else:
            size, self._wide_buffer = self._wide_buffer, None
        self._source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    async def _write(self, queue: MemoryObjectReceiveStream[_Chunk]) -> None:
        with queue:
            async for chunk in queue:
                await self._wire.travelled(chunk.departed)
                for piece in self._wire.pieces(chunk.data):
                    await self._writing.turn()
                    self._writing.took(len(piece))
                    await self._pass_on(piece)
                    await self._wire.pause()
        await self._end()

    async def _pass_on(self, piece: bytes) -> None:
        await self._wire.flowing()
        head, cut = self._wire.up_to_cut(piece)
        await self._send(head)
        if cut is not None:
            cut.act(self._connection)
            cut.done.set()
            await self._send(piece[len(head) :])

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            await self._wire.flowing()
            if self._swallows():
                self._wire.dropped_total += len(rest)
                return
            try:
                rest = rest[self._sink.send(rest) :]
            except BlockingIOError:
                await self._wire.changes.interrupt(anyio.wait_writable, self._sink)
            except OSError:
                await self._broken()

    def _swallows(self) -> bool:
        # What has lost bytes once can never make sense again, so it stays lossy.
        self._lossy = self._lossy or self._is_black_hole()
        return self._lossy or self._finished

    def _is_black_hole(self) -> bool:
        return self._wire.dropping or self._direction in self._connection.dropping

    async def _passed_on(self) -> None:
        """Waits until what is sent arrives, instead of vanishing."""
        await self._wire.changes.until(lambda: not self._is_black_hole())

    async def _end(self) -> None:
        await self._passed_on()
        if self._lossy:
            self._connection.reset()
        else:
            self.finish()

    async def _broken(self) -> None:
        # Nobody hears of a reset through a black hole.
        await self._passed_on()
        self._connection.reset()


class _Pace:
    """When the next bytes may move, at the wire's rate."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._free_at = 0.0

    async def turn(self) -> None:
        """Waits until it is time for some more."""
        wire = self._wire
        while wire.rate is not None and (left := self._free_at - anyio.current_time()) > 0:
            await wire.changes.interrupt(anyio.sleep, left)

    def took(self, size: int) -> None:
        """So much has moved."""
        if self._wire.rate is not None:
            self._free_at = max(self._free_at, anyio.current_time()) + size / self._wire.rate
