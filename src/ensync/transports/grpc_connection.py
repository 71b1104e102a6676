"""One HTTP/2 connection to an engine, over grpclib: calls and streams on it.

grpclib connects, frames and codes. What is added here: calls queue fairly in
front of the engine's stream limit, every way in which the connection can die
ends in one place, and dying never waits for a write buffer.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import anyio
import betterproto2
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from ensync.address import Address
from ensync.errors import EnSyncConnectionError
from ensync.transports.bridge import AsyncioSide
from ensync.transports.connect_errors import network_error
from ensync.transports.grpc_protocol import ClientProtocol, FixedChannel

__all__ = ["GrpcConnection", "UnaryCall", "UnaryResult"]

# Assumed until the engine's SETTINGS frame says otherwise.
_DEFAULT_STREAM_LIMIT = 100

UnaryResult = betterproto2.Message | GRPCError | EnSyncConnectionError


class UnaryCall:
    """A request on its way through a connection."""

    __slots__ = ("_connection", "_on_result", "_on_sent", "_task", "message", "path", "reply_type")

    def __init__(
        self,
        connection: GrpcConnection,
        path: str,
        message: betterproto2.Message,
        reply_type: type[betterproto2.Message],
        on_result: Callable[[UnaryResult], None],
        on_sent: Callable[[], None] | None,
    ) -> None:
        self.path = path
        self.message = message
        self.reply_type = reply_type
        self._on_sent = on_sent
        self._connection = connection
        self._on_result: Callable[[UnaryResult], None] | None = on_result
        self._task: Any = None

    def run_as(self, task: Any) -> None:
        self._task = task

    def leaves(self) -> None:
        if self._on_sent is not None:
            self._on_sent()

    def finish(self, result: UnaryResult) -> None:
        on_result, self._on_result = self._on_result, None
        if on_result is not None:
            on_result(result)

    def cancel(self) -> None:
        self._on_result = None
        if self._task is not None:
            self._task.cancel()
        else:
            self._connection.forget(self)


class GrpcConnection:
    """Made by :meth:`open`; lost once, for good."""

    def __init__(self, address: Address, side: AsyncioSide) -> None:
        self._address = address
        self._side = side
        self._protocol: ClientProtocol | None = None
        self._channel: FixedChannel | None = None
        self._waiting: deque[UnaryCall] = deque()
        self._running: set[UnaryCall] = set()
        self._stream_tasks: set[Any] = set()
        self._losing: list[Callable[[EnSyncConnectionError], None]] = []
        self._stream_limit = _DEFAULT_STREAM_LIMIT
        self.error: EnSyncConnectionError | None = None

    @classmethod
    async def open(
        cls, address: Address, side: AsyncioSide, tls: ssl.SSLContext | None
    ) -> GrpcConnection:
        """Connects the socket and, where asked for, TLS.

        Raises:
            EnSyncConnectionError: With a text that says which step failed.
        """
        connection = cls(address, side)
        connection._protocol = await _open_protocol(connection, address, side, tls)
        connection._channel = FixedChannel(address, connection._protocol, tls)
        return connection

    @property
    def lost(self) -> bool:
        return self.error is not None

    @property
    def stream_limit(self) -> int:
        return self._stream_limit

    @property
    def subscriptions(self) -> int:
        return len(self._stream_tasks)

    def when_lost(self, callback: Callable[[EnSyncConnectionError], None]) -> None:
        self._losing.append(callback)

    def forget_when_lost(self, callback: Callable[[EnSyncConnectionError], None]) -> None:
        if callback in self._losing:
            self._losing.remove(callback)

    # Calls

    def call(
        self,
        path: str,
        message: betterproto2.Message,
        reply_type: type[betterproto2.Message],
        on_result: Callable[[UnaryResult], None],
        on_sent: Callable[[], None] | None = None,
    ) -> UnaryCall:
        """Queues a request behind the engine's stream limit, first come first served."""
        call = UnaryCall(self, path, message, reply_type, on_result, on_sent)
        if self.error is not None:
            call.finish(self.error)
        elif self._has_room():
            self._start(call)
        else:
            self._waiting.append(call)
        return call

    def forget(self, call: UnaryCall) -> None:
        if call in self._waiting:
            self._waiting.remove(call)

    def _has_room(self) -> bool:
        return len(self._running) + len(self._stream_tasks) < self._stream_limit

    def _start(self, call: UnaryCall) -> None:
        self._running.add(call)
        call.run_as(self._side.spawn(self._run, call, name=f"ensync call {call.path}"))

    async def _run(self, call: UnaryCall) -> None:
        try:
            result = await self._exchange(call)
        finally:
            self._running.discard(call)
            self._start_waiting()
        call.finish(result)

    def _start_waiting(self) -> None:
        while self._waiting and self._has_room() and not self.lost:
            self._start(self._waiting.popleft())

    async def _exchange(self, call: UnaryCall) -> UnaryResult:
        try:
            async with self.request(
                call.path, Cardinality.UNARY_UNARY, type(call.message), call.reply_type
            ) as stream:
                await stream.send_request()
                call.leaves()
                await stream.send_message(call.message, end=True)
                reply = await stream.recv_message()
        except GRPCError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the boundary to grpclib and h2
            return self.translate(error)
        if reply is None:
            return self.wrong("ended a call without a reply")
        return cast(betterproto2.Message, reply)

    # Streams

    def start_stream(self, pump: Callable[[], Any], *, name: str) -> Any:
        """Starts the task that reads one server stream; it counts against the limit."""
        task = self._side.spawn(pump, name=name)
        self._stream_tasks.add(task)
        task.add_done_callback(self._stream_ended)
        return task

    def _stream_ended(self, task: Any) -> None:
        self._stream_tasks.discard(task)
        self._start_waiting()

    def request(
        self, path: str, cardinality: Cardinality, request_type: Any, reply_type: Any
    ) -> Any:
        assert self._channel is not None
        return self._channel.request(path, cardinality, request_type, reply_type)

    # Losing

    def translate(self, error: Exception) -> EnSyncConnectionError:
        """What an exception out of grpclib means, in our own words."""
        if self.error is not None:
            return self.error
        if isinstance(error, StreamTerminatedError):
            translated = EnSyncConnectionError(
                f"the engine at {self._address.url} reset a request: {error}", code="request_reset"
            )
        elif isinstance(error, (ProtocolError, OSError)):
            translated = self.wrong(f"broke a request off: {error}")
        else:
            translated = self.wrong(f"answered with something that can't be read: {error!r}")
        translated.__cause__ = error
        return translated

    def wrong(self, what: str) -> EnSyncConnectionError:
        return EnSyncConnectionError(
            f"the engine at {self._address.url} {what}", code="protocol_error"
        )

    def lose(self, error: EnSyncConnectionError) -> None:
        """Tears everything down now: calls are answered first, then losers are told."""
        if self.error is not None:
            return
        self.error = error
        if self._protocol is not None:
            self._protocol.abort()
        calls = [*self._running, *self._waiting]
        self._waiting.clear()
        for call in calls:
            call.finish(error)
            call.cancel()
        for task in self._stream_tasks:
            task.cancel()
        losing, self._losing = self._losing, []
        for callback in losing:
            callback(error)

    async def aclose(self) -> None:
        """Closes in an orderly way, within a second."""
        if self.lost or self._protocol is None:
            return
        protocol = self._protocol
        self._losing.clear()
        error = EnSyncConnectionError("this connection was closed", code="closed")
        with anyio.move_on_after(1, shield=True):
            for task in self._stream_tasks:
                task.cancel()
            protocol.close()
            await protocol.closed.wait()
        self.lose(error)

    # What the protocol reports

    def set_stream_limit(self, limit: int) -> None:
        self._stream_limit = max(1, limit)
        self._start_waiting()

    def connection_ended(self, reason: str, cause: BaseException | None) -> None:
        error = EnSyncConnectionError(
            f"the connection to {self._address.url} was lost: {reason}", code="link_lost"
        )
        error.__cause__ = cause
        self.lose(error)


async def _open_protocol(
    connection: GrpcConnection, address: Address, side: AsyncioSide, tls: ssl.SSLContext | None
) -> ClientProtocol:
    def make() -> ClientProtocol:
        return ClientProtocol(connection)

    try:
        protocol = await side.create_connection(make, address.host, address.port, tls=tls)
    except OSError as error:
        raise network_error(address, error) from error
    return cast("ClientProtocol", protocol)
