"""Calls and streams through grpclib's public API, with a task for each.

Slower than ``grpc_direct``, and leaning on nothing that grpclib may change.
"""

from __future__ import annotations

from typing import Any

import anyio
from grpclib.client import Channel
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError

from ensync.transports.bridge import AsyncioSide
from ensync.transports.grpc_wire import (
    ServerStream,
    StreamResult,
    UnaryCall,
    UnaryResult,
    Wire,
    WireOwner,
)

__all__ = ["PlainWire"]


class PlainWire(Wire):
    """Carries over a channel whose connection is there already."""

    def __init__(self, owner: WireOwner, side: AsyncioSide, channel: Channel) -> None:
        self._owner = owner
        self._side = side
        self._channel: Any = channel

    def start_call(self, call: UnaryCall) -> None:
        # A task of its own, because grpclib marks the task as cancelled when the link dies.
        task = self._side.spawn(self._run_call, call, name=f"ensync call {call.path}")
        call.undo = task.cancel

    async def _run_call(self, call: UnaryCall) -> None:
        call.finish(await self._result(call))

    async def _result(self, call: UnaryCall) -> UnaryResult:
        try:
            async with self._channel.request(
                call.path, Cardinality.UNARY_UNARY, type(call.message), call.reply_type
            ) as stream:
                await stream.send_request()
                call.leaves()
                await stream.send_message(call.message, end=True)
                reply: UnaryResult | None = await stream.recv_message()
        except GRPCError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the boundary to grpclib and h2
            return self._owner.translate(error)
        return self._owner.wrong("ended a call without a reply") if reply is None else reply

    def start_stream(self, stream: ServerStream) -> None:
        reader = _Reader()
        task = self._side.spawn(self._run_stream, stream, reader, name=f"ensync {stream.path}")
        stream.reader = reader
        stream.undo = task.cancel

    async def _run_stream(self, stream: ServerStream, reader: _Reader) -> None:
        stream.finish(await self._read(stream, reader))

    async def _read(self, stream: ServerStream, reader: _Reader) -> StreamResult:
        try:
            async with self._channel.request(
                stream.path, Cardinality.UNARY_STREAM, type(stream.message), stream.message_type
            ) as exchange:
                await exchange.send_message(stream.message, end=True)
                await exchange.recv_initial_metadata()
                stream.on_open()
                while True:
                    await reader.may_read()
                    message = await exchange.recv_message()
                    if message is None:
                        break
                    stream.on_message(message)
        except GRPCError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the boundary to grpclib and h2
            return self._owner.translate(error)
        return None


class _Reader:
    """Lets a stream's task read, or not."""

    def __init__(self) -> None:
        self._held = False
        self._released: anyio.Event | None = None

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        if self._released is not None:
            self._released.set()

    async def may_read(self) -> None:
        while self._held:
            # Made here, on the asyncio side; release() may come from the other.
            self._released = anyio.Event()
            await self._released.wait()
