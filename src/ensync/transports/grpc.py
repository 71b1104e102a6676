"""The gRPC transport (PROTOCOL 3), over grpclib.

The clients of one engine share its connections: one for calls and the first
subscriptions, more when the engine's limit on concurrent streams asks for it.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from typing import Literal

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ensync.address import Address
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
)
from ensync.proto.ensync import (
    ConnectRequest,
    ConnectResponse,
)
from ensync.transports.base import (
    Acknowledge,
    Call,
    Carrier,
    DeliveryCallback,
    EndCallback,
    Heartbeat,
    Identity,
    Link,
    LostCallback,
    ReplyCallback,
    Request,
    Stream,
    Transport,
)
from ensync.transports.bridge import AsyncioSide
from ensync.transports.grpc_call import GrpcCall
from ensync.transports.grpc_connection import GrpcConnection, Http2
from ensync.transports.grpc_messages import (
    CONNECT,
    Generation,
)
from ensync.transports.grpc_status import status_text
from ensync.transports.grpc_stream import GrpcStream
from ensync.transports.grpc_wire import UnaryResult

__all__ = ["GrpcTransport"]

logger = logging.getLogger("ensync")


class GrpcTransport(Transport):
    """Opens links over one shared connection, and more as subscriptions need them.

    To be made on the asyncio side.
    """

    def __init__(
        self,
        address: Address,
        side: AsyncioSide,
        *,
        tls: ssl.SSLContext | None,
        generation: Generation | None,
        http2: Http2,
        compression: Literal["deflate"] | None = None,
    ) -> None:
        self._address = address
        self._side = side
        self._tls = tls
        self._told_generation = generation
        self._http2: Http2 = http2
        self._compresses = compression is not None
        self._connections: list[GrpcConnection] = []
        self._connecting = anyio.Lock()
        self.generation = generation

    async def open_link(self, on_lost: LostCallback) -> Link:
        async with self._connecting:
            connection = self._first_alive() or await self._open_first()
        return GrpcLink(self, connection, on_lost)

    def _first_alive(self) -> GrpcConnection | None:
        if any(connection.needs_h2 for connection in self._connections):
            logger.warning("%s needs all of HTTP/2: going on with h2", self._address.url)
            self._http2 = "h2"
        self._connections = [c for c in self._connections if not c.lost]
        return next(iter(self._taking_more()), None)

    def _taking_more(self) -> list[GrpcConnection]:
        return [each for each in self._connections if each.takes_more and not each.is_doubtful]

    async def _open_first(self) -> GrpcConnection:
        # Another engine may answer after a loss, of another generation.
        self.generation = self._told_generation
        return await self._open()

    async def _open(self) -> GrpcConnection:
        connection = await GrpcConnection.open(
            self._address, self._side, self._tls, self._http2, compresses=self._compresses
        )
        self._connections.append(connection)
        return connection

    async def connection_for_stream(self, shared: GrpcConnection) -> GrpcConnection:
        """A connection with room for one more subscription of a link.

        The first connection keeps half of its streams for calls, and each at least one for
        heartbeats.

        Args:
            shared: The connection that carries the link.

        Raises:
            EnSyncConnectionError: That connection is lost, and with it the link: nothing
                is opened for it any more.
        """
        async with self._connecting:
            if shared.error is not None:
                raise shared.error
            for number, connection in enumerate(self._taking_more()):
                limit = connection.stream_limit
                most = max(1, limit - 1) if number else min(limit // 2, limit - 2)
                if connection.subscriptions < most:
                    return connection
            return await self._open()

    async def aclose(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.aclose()


class GrpcLink(Link):
    """One client's share in the transport's connections."""

    def __init__(
        self, transport: GrpcTransport, connection: GrpcConnection, on_lost: LostCallback
    ) -> None:
        self.transport = transport
        self._connection = connection
        self._on_lost: LostCallback | None = on_lost
        self._carriers: list[GrpcConnection] = []
        self._streams: set[GrpcStream] = set()
        self._calls: set[GrpcCall] = set()
        self.client_id = ""
        self._carried_by(connection)

    def _carried_by(self, connection: GrpcConnection) -> None:
        if connection not in self._carriers:
            self._carriers.append(connection)
            connection.when_lost(self._connection_lost)

    async def authenticate(self, app_key: str) -> Identity:
        answer: list[UnaryResult] = []
        answered = anyio.Event()

        def on_result(result: UnaryResult) -> None:
            answer.append(result)
            answered.set()

        request = ConnectRequest(access_key=app_key)
        call = self._connection.call(CONNECT, request, ConnectResponse, on_result)
        heard_before = self._connection.progress().received
        try:
            await answered.wait()
        finally:
            call.cancel()
            if not answer:
                self._connection.doubt(heard_before)
        identity = _read_identity(answer[0])
        self.client_id = identity.client_id
        return identity

    def send(self, request: Request, on_reply: ReplyCallback) -> Call:
        return self._call(self._connection, request, on_reply)

    def beat(self, carrier: Carrier, on_reply: ReplyCallback) -> Call:
        assert isinstance(carrier, GrpcConnection)
        if carrier.has_slot_for_heartbeat:
            return self._call(carrier, Heartbeat(), on_reply)
        return carrier.ping(on_reply)

    def _call(
        self, connection: GrpcConnection, request: Request, on_reply: ReplyCallback
    ) -> GrpcCall:
        call = GrpcCall(self, connection, request, on_reply)
        self._calls.add(call)
        if isinstance(request, Acknowledge):
            connection.acknowledging += 1
        call.start()
        return call

    @property
    def room(self) -> int:
        return self._connection.room_to_acknowledge

    @property
    def carriers(self) -> Sequence[Carrier]:
        return self._carriers

    async def subscribe(
        self, event_name: str, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> Stream:
        connection = await self.transport.connection_for_stream(self._connection)
        self._carried_by(connection)
        stream = GrpcStream(self, connection, event_name, on_delivery, on_end)
        self._streams.add(stream)
        try:
            await stream.registered()
        except BaseException:
            stream.close()
            raise
        return stream

    def abort(self, error: EnSyncConnectionError) -> None:
        for connection in list(self._carriers):
            connection.lose(error)

    async def aclose(self) -> None:
        self._on_lost = None
        self._leave(EnSyncConnectionError("this client was closed", code="closed"))

    def _connection_lost(self, error: EnSyncConnectionError) -> None:
        on_lost, self._on_lost = self._on_lost, None
        self._leave(error)
        if on_lost is not None:
            on_lost(error)

    def _leave(self, error: EnSyncConnectionError) -> None:
        for connection in self._carriers:
            connection.forget_when_lost(self._connection_lost)
        # What was not sent goes first: all that ends makes room for what waits.
        self._end_calls(error, sent=False)
        for stream in list(self._streams):
            stream.close()
        self._end_calls(error, sent=True)

    def _end_calls(self, error: EnSyncConnectionError, *, sent: bool) -> None:
        for call in [call for call in self._calls if call.sent == sent]:
            call.answer(error)
            call.cancel()

    # What calls and streams of this link need

    def call_ended(self, call: GrpcCall) -> None:
        if call in self._calls:
            self._calls.discard(call)
            if isinstance(call.request, Acknowledge):
                call.connection.acknowledging -= 1

    def stream_ended(self, stream: GrpcStream) -> None:
        self._streams.discard(stream)


def _read_identity(result: UnaryResult) -> Identity:
    if isinstance(result, EnSyncConnectionError):
        raise result
    if isinstance(result, GRPCError):
        raise _authentication_failed(result) from result
    assert isinstance(result, ConnectResponse)
    if not result.success:
        raise EnSyncAuthenticationError(
            f"the engine refuses this app key: {result.error_message or 'no reason given'}"
        )
    return Identity(result.client_id, result.client_hash, result.server_config)


def _authentication_failed(error: GRPCError) -> EnSyncConnectionError:
    text = status_text(error)
    if error.status in (Status.UNAUTHENTICATED, Status.PERMISSION_DENIED):
        return EnSyncAuthenticationError(f"the engine refuses this app key: {text}")
    if error.status is Status.UNIMPLEMENTED:
        return EnSyncConnectionError(
            f"the server there is not an EnSync engine: {text}", code="protocol_error"
        )
    return EnSyncConnectionError(f"the engine could not authenticate: {text}")
