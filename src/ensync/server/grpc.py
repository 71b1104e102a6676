"""The gRPC door: calls from clients become calls of the broker (PROTOCOL 3)."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Collection
from typing import Any, NamedTuple

import anyio
import betterproto2
from grpclib.const import Status

from ensync.proto.ensync import SubscribeRequest
from ensync.scopes import background_tasks, until_cancelled
from ensync.server.arriving import TLS_HANDSHAKE_TIMEOUT, Arriving
from ensync.server.broker import Broker
from ensync.server.grpc_call import CallFailed, GrpcCall
from ensync.server.grpc_limits import GrpcLimits
from ensync.server.grpc_methods import (
    GENERATIONS,
    SUBSCRIBE_PATH,
    GrpcMethods,
    UnaryMethod,
    unary_methods,
)
from ensync.server.grpc_streams import EventStreams, OneStreamForAll, StreamForEach
from ensync.server.hooks import DoorCall, DoorFault, DoorHooks
from ensync.server.http2 import GrpcConnection
from ensync.server.refusal import Reason, Refusal
from ensync.server.stop_accepting import stop_accepting
from ensync.transports.bridge import AsyncioSide

__all__ = ["GrpcDoor", "GrpcOptions", "serve_grpc"]

logger = logging.getLogger("ensync")

_CLOSE_TIMEOUT = 1.0  # seconds

# How a refusal is worded where the response has no room for it.
_STATUS_OF = {
    Reason.UNKNOWN_CLIENT: Status.UNAUTHENTICATED,
    Reason.UNKNOWN_KEY: Status.UNAUTHENTICATED,
    Reason.FORBIDDEN: Status.PERMISSION_DENIED,
    Reason.INVALID: Status.INVALID_ARGUMENT,
    Reason.NOT_FOUND: Status.NOT_FOUND,
    Reason.ALREADY: Status.ALREADY_EXISTS,
    Reason.LIMIT: Status.RESOURCE_EXHAUSTED,
    Reason.STOPPING: Status.UNAVAILABLE,
}


class GrpcOptions(NamedTuple):
    """What kind of engine a gRPC door plays.

    Attributes:
        generations: Which method names it offers.
        multiplex: Whether all events of a client go out on its first stream.
        end_registering_streams: When multiplexing, whether later Subscribe calls end
            at once, instead of staying open without events.
        early_headers: Whether a subscription's headers are sent when it is registered,
            not with its first event.
        limits: What it puts up with.
    """

    generations: Collection[str] = GENERATIONS
    multiplex: bool = False
    end_registering_streams: bool = False
    early_headers: bool = True
    limits: GrpcLimits = GrpcLimits()


class GrpcDoor:
    """A listening gRPC door. Made by serve_grpc().

    Attributes:
        port: Where it listens.
        connections: The open connections.
    """

    def __init__(
        self, side: AsyncioSide, broker: Broker, hooks: DoorHooks, options: GrpcOptions
    ) -> None:
        self.side = side
        self.limits = options.limits
        self.large_messages = anyio.Semaphore(options.limits.large_messages)
        self.connections: set[GrpcConnection] = set()
        self.port = 0
        self._broker = broker
        self._hooks = hooks
        self._methods = unary_methods(options.generations)
        self._handlers = GrpcMethods(broker)
        self._streams = _event_streams(broker, hooks, options)
        self._server: Any = None
        self._arriving = Arriving()
        self._is_closing = False

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Starts to accept connections."""
        if tls is not None:
            tls.set_alpn_protocols(["h2"])  # some gRPC clients insist on it
        self._server = await self.side.create_server(
            self._make_connection,
            host,
            port,
            tls=tls,
            tls_handshake_timeout=TLS_HANDSHAKE_TIMEOUT,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.side.spawn(self._watch_connections, name="gRPC door's watch")

    async def aclose(self) -> None:
        """Stops listening, lets calls under way end, and closes; in a second or so.

        The broker is to be shut down first, which ends the subscriptions.
        """
        self._is_closing = True
        await stop_accepting(self._server, self._arriving)
        self._server.close()
        for connection in self.connections:
            connection.go_away()
        with anyio.move_on_after(_CLOSE_TIMEOUT):
            await self._until_idle()
        for connection in list(self.connections):
            connection.close()
        with anyio.move_on_after(_CLOSE_TIMEOUT):
            await self._until_closed()
        for connection in list(self.connections):
            connection.abort()
        await self._until_closed()

    # What connections call

    def opened(self, connection: GrpcConnection) -> bool:
        if self._is_closing or len(self.connections) >= self.limits.connections:
            return False
        self.connections.add(connection)
        return True

    def closed(self, connection: GrpcConnection) -> None:
        self.connections.discard(connection)
        self.side.spawn(
            self._broker.connection_closed, connection, name="clean-up after a connection"
        )

    async def serve(self, call: GrpcCall) -> None:
        async def answer() -> None:
            await self._answer_or_fail(call)

        await call.while_client_waits(answer)

    # Inside

    def _make_connection(self) -> GrpcConnection:
        self._arriving.note()
        return GrpcConnection(self)

    async def _answer_or_fail(self, call: GrpcCall) -> None:
        try:
            await self._answer(call)
        except CallFailed as failure:
            await call.finish(failure.status, str(failure))
        except Refusal as refusal:
            await call.finish(_STATUS_OF[refusal.reason], str(refusal))
        except DoorFault as fault:
            await _fail_on_purpose(call, fault)
        except Exception:
            if call.is_abandoned:
                logger.debug("a call ended with its connection", exc_info=True)
                return
            logger.exception("internal error in the gRPC door, in %s", call.path)
            await call.finish(Status.INTERNAL, "internal error")

    async def _answer(self, call: GrpcCall) -> None:
        call.check_is_grpc()
        if call.path == SUBSCRIBE_PATH:
            await self._subscribe(call)
            return
        method = self._methods.get(call.path)
        if method is None:
            raise CallFailed(Status.UNIMPLEMENTED, "this engine has no such method")
        await self._answer_unary(call, method)

    async def _answer_unary(self, call: GrpcCall, method: UnaryMethod) -> None:
        request = await call.read_request(method.request_type)
        door_call = _door_call(call, method.purpose, request)
        try:
            await self._hooks.before_handling(door_call)
            response = await self._handle(call, method, request)
            await self._hooks.before_reply(door_call)
        except Refusal as refusal:
            response = method.refuse(refusal)
        await call.send(response)
        await call.finish()

    async def _handle(
        self, call: GrpcCall, method: UnaryMethod, request: betterproto2.Message
    ) -> betterproto2.Message:
        self._broker.attach(getattr(request, "client_id", ""), call.connection)
        with call.to_the_end():
            return await method.handle(self._handlers, call.connection, request)

    async def _subscribe(self, call: GrpcCall) -> None:
        request = await call.read_request(SubscribeRequest)
        door_call = _door_call(call, "subscribe", request)
        await self._hooks.before_handling(door_call)
        self._broker.attach(request.client_id, call.connection)
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(self._hooks.during_stream, door_call)
                await self._streams.serve(call, door_call)
        except BaseExceptionGroup as group:
            # Several faults at once end a stream as one of them would.
            fault = _first_of_faults(group)
            if fault is None:
                raise
            raise fault from None

    async def _watch_connections(self) -> None:
        while True:
            await anyio.sleep(self.limits.ping_interval / 2)
            for connection in list(self.connections):
                connection.check_alive()

    async def _until_idle(self) -> None:
        for connection in list(self.connections):
            await connection.idle()

    async def _until_closed(self) -> None:
        for connection in list(self.connections):
            await connection.ended.wait()


async def serve_grpc(
    side: AsyncioSide,
    broker: Broker,
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    hooks: DoorHooks,
    options: GrpcOptions,
) -> GrpcDoor:
    """Opens a gRPC door. To be called on the asyncio side, as is all that it gives."""
    door = GrpcDoor(side, broker, hooks, options)
    await door.listen(host, port, tls)
    return door


def _event_streams(broker: Broker, hooks: DoorHooks, options: GrpcOptions) -> EventStreams:
    if options.multiplex:
        return OneStreamForAll(
            broker,
            hooks,
            early_headers=options.early_headers,
            end_later_calls=options.end_registering_streams,
        )
    return StreamForEach(broker, hooks, early_headers=options.early_headers)


def _door_call(call: GrpcCall, purpose: str, request: betterproto2.Message) -> DoorCall:
    return DoorCall(
        "grpc",
        purpose,
        getattr(request, "client_id", ""),
        getattr(request, "event_name", ""),
        call.connection,
    )


def _first_of_faults(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The first, if there is nothing else in the group."""
    faults, others = group.split(DoorFault)
    if others is not None:
        return None
    first: BaseException | None = faults
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


async def _fail_on_purpose(call: GrpcCall, fault: DoorFault) -> None:
    if fault.silent:
        await until_cancelled()  # as the client gives up
    if fault.reset:
        call.reset()
    else:
        await call.finish(Status[fault.status], str(fault))
