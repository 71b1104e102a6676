"""HTTP/2 by hand, for what a gRPC library would never send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.abc
import h2.events
from grpclib.const import Status
from h2.config import H2Configuration
from h2.connection import H2Connection

E = TypeVar("E", bound=h2.events.Event)

CONNECT = "/ensync.EnSyncService/Connect"


@asynccontextmanager
async def raw_connection(port: int) -> AsyncIterator[RawConnection]:
    """A connection that has said its first words."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        raw = RawConnection(stream)
        await raw.flush()
        yield raw


class Reply:
    """A response, as far as it has come."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.data = b""
        self.has_ended = False

    def add(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.headers.update(dict(event.headers))  # type: ignore[arg-type]
        elif isinstance(event, h2.events.DataReceived):
            self.data += event.data
        elif isinstance(event, h2.events.StreamEnded):
            self.has_ended = True

    @property
    def status(self) -> Status:
        return Status(int(self.headers["grpc-status"]))


class RawConnection:
    """A connection to an engine."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.has_gone_away = False
        self.h2 = H2Connection(
            H2Configuration(header_encoding="ascii", validate_outbound_headers=False)
        )
        self.h2.initiate_connection()

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.stream.send(data)

    async def answer_to(
        self,
        body: bytes,
        *,
        path: str = CONNECT,
        end: bool = True,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Sends a request and waits for the end of the response."""
        stream_id = await self.ask(body, path=path, end=end, headers=headers)
        with anyio.fail_after(10):
            return await self.reply(stream_id)

    async def ask(
        self,
        body: bytes,
        *,
        path: str = CONNECT,
        end: bool = True,
        headers: dict[str, str] | None = None,
    ) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        all_headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "te": "trailers",
            "content-type": "application/grpc",
        } | (headers or {})
        self.h2.send_headers(stream_id, list(all_headers.items()))
        self.h2.send_data(stream_id, body, end_stream=end)
        await self.flush()
        return stream_id

    async def reply(self, stream_id: int) -> Reply:
        """The response to a request, once it has ended."""
        reply = Reply()
        while not reply.has_ended:
            for event in self.h2.receive_data(await self.stream.receive()):
                if isinstance(event, h2.events.ConnectionTerminated):
                    self.has_gone_away = True
                elif getattr(event, "stream_id", None) == stream_id:
                    reply.add(event)
            await self.flush()
        return reply

    async def event(self, kind: type[E]) -> E:
        """Reads until there is an event of this kind, and drops all that comes with it."""
        with anyio.fail_after(10):
            while True:
                for event in self.h2.receive_data(await self.stream.receive()):
                    if isinstance(event, kind):
                        return event
                await self.flush()

    async def until_closed(self) -> bytes:
        """Reads until the engine closes. Returns all that it said."""
        said = b""
        with anyio.fail_after(10):
            while True:
                try:
                    said += await self.stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return said


def framed(data: bytes, *, compressed: int = 0, size: int | None = None) -> bytes:
    size = len(data) if size is None else size
    return bytes([compressed]) + size.to_bytes(4, "big") + data
