"""One client's HTTP/2 connection to the gRPC door, and the calls on it.

grpclib frames, codes and controls the flow. Added here is what an engine needs
and grpclib's own server does not have: a limit on the size of a request before it
is read, on streams, and on how long a dead connection stays; and word of a
connection's end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import anyio
import betterproto2
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.metadata import encode_grpc_message
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol, Stream
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import AlternativeServiceAvailable, Event, UnknownFrameReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

from ensync.server.hooks import DoorConnection
from ensync.transports.bridge import AsyncioSide
from ensync.transports.corked import CorkedTransport
from ensync.transports.message_codec import encoder, strict_decoder

__all__ = ["CallFailed", "GrpcCall", "GrpcConnection", "GrpcLimits"]

M = TypeVar("M", bound=betterproto2.Message)

logger = logging.getLogger("ensync")

_MIB = 1 << 20
_PREFIX_SIZE = 5  # a compression flag and the length of the message
_RESPONSE_HEADERS = [(":status", "200"), ("content-type", "application/grpc+proto")]
_INITIAL_WINDOW = (1 << 16) - 1  # of every HTTP/2 connection
_PING = b"ensync.."  # eight bytes, as HTTP/2 wants


class GrpcLimits(NamedTuple):
    """What bounds the memory and the patience of a gRPC door. Times are in seconds."""

    connections: int = 1000
    concurrent_streams: int = 100
    message_bytes: int = 6 * _MIB
    stream_window: int = _MIB
    # Well above the window of a stream, so that one that is not read stalls no other.
    connection_window: int = 32 * _MIB
    large_message_bytes: int = _MIB // 4
    large_messages: int = 16
    unsent_bytes: int = 8 * _MIB
    read_timeout: float = 30.0
    ping_interval: float = 30.0
    ping_timeout: float = 20.0


class CallFailed(Exception):
    """A call ends with a gRPC status other than OK."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class Door(Protocol):
    """What a connection needs to know of the door it belongs to."""

    side: AsyncioSide
    limits: GrpcLimits
    large_messages: anyio.Semaphore
    """Held while a large message is read, of which only so many are read at once."""

    def opened(self, connection: GrpcConnection) -> bool:
        """A connection was made. Says whether it may stay."""
        ...

    async def serve(self, call: GrpcCall) -> None:
        """Answers one call. Handles its own errors."""
        ...

    def closed(self, connection: GrpcConnection) -> None:
        """A connection has ended. Called once for each that was opened."""
        ...


class GrpcConnection(H2Protocol, DoorConnection):
    """A client's connection."""

    def __init__(self, door: Door) -> None:
        config = Configuration(
            http2_connection_window_size=door.limits.connection_window,
            http2_stream_window_size=door.limits.stream_window,
        )
        self._calls = _Calls(self)
        super().__init__(self._calls, config.__for_server__(), _H2_CONFIG)
        self.door = door
        self.ended = anyio.Event()
        self.going_away = False
        self._h2 = H2Connection(config=_H2_CONFIG)
        self._transport: CorkedTransport | None = None
        self._last_received = anyio.current_time()

    @property
    def calls(self) -> int:
        """How many calls are under way."""
        return len(self._calls)

    async def idle(self) -> None:
        """Waits until no call is under way."""
        await self._calls.all_done()

    def connection_made(self, transport: Any) -> None:
        if not self.door.opened(self):
            logger.warning("a connection was refused: %d are open", self.door.limits.connections)
            transport.abort()
            return
        self._transport = CorkedTransport(transport, self.door.side.call_soon)
        self._announce_settings()
        self.connection = Connection(self._h2, cast(Any, self._transport), config=self.config)
        self.connection.flush()
        self.processor = EventsProcessor(self._calls, self.connection)

    def _announce_settings(self) -> None:
        limits = self.door.limits
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(limits.connection_window - _INITIAL_WINDOW)
        self._h2.update_settings(
            {
                SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window,
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.concurrent_streams,
            }
        )

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._last_received = anyio.current_time()
        try:
            self._process(self._h2.receive_data(data))
        except ProtocolError as error:
            logger.info("a client does not speak HTTP/2 well: %s", error)
            self.connection.flush()  # says so in a GOAWAY
            self.processor.close("protocol error")
        except Exception:
            logger.exception("internal error in the gRPC door")
            self.abort()

    def _process(self, events: list[Event]) -> None:
        self.connection.flush()
        for event in events:
            if not isinstance(event, _IGNORED_EVENTS):
                self.processor.process(event)
        if not self.connection.is_closing():
            self.connection.flush()
        unsent_bytes = 0 if self._transport is None else self._transport.unsent_bytes
        if unsent_bytes > self.door.limits.unsent_bytes:
            logger.warning("a client is cut off: it asks for replies and does not read them")
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._transport is None:
            return
        self.ended.set()
        super().connection_lost(exc)
        self.door.closed(self)

    def check_alive(self) -> None:
        """Pings a silent client, and gives one up that was pinged in vain."""
        silence = anyio.current_time() - self._last_received
        limits = self.door.limits
        if silence > limits.ping_interval + limits.ping_timeout:
            self.abort()
        elif silence > limits.ping_interval:
            self._h2.ping(_PING)
            self.connection.flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def freeze(self) -> None:
        if self._transport is not None:
            self._transport.freeze()

    def go_away(self, *, error: bool = False) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if error:
            self._h2.close_connection(ErrorCodes.INTERNAL_ERROR)
            self.connection.flush()
            self.processor.close("went away with an error")
        elif not self.going_away:
            # h2 would refuse to send anything after a GOAWAY of its own.
            self.going_away = True
            frame = GoAwayFrame(0, last_stream_id=self._h2.highest_inbound_stream_id)
            self._transport.write(frame.serialize())

    def close(self) -> None:
        """Closes once all that was said is written."""
        if self._transport is not None:
            self._transport.close()


class _Calls(AbstractHandler):
    """The calls under way on one connection. Called by grpclib."""

    def __init__(self, connection: GrpcConnection) -> None:
        self._connection = connection
        self._calls: dict[Stream, GrpcCall] = {}
        self._one_is_done = anyio.Event()

    def __len__(self) -> int:
        return len(self._calls)

    async def all_done(self) -> None:
        while self._calls:
            await self._one_is_done.wait()

    def accept(
        self, stream: Stream, headers: list[tuple[str, str]], release_stream: Callable[[], None]
    ) -> None:
        if self._connection.going_away:
            release_stream()
            stream.reset_nowait(ErrorCodes.REFUSED_STREAM)
            return
        call = self._calls[stream] = GrpcCall(self._connection, stream, dict(headers))
        self._connection.door.side.spawn(self._serve, call, release_stream, name="gRPC call")

    def cancel(self, stream: Stream) -> None:
        self._calls[stream].client_left()

    def close(self) -> None:
        for call in self._calls.values():
            call.client_left()

    async def _serve(self, call: GrpcCall, release_stream: Callable[[], None]) -> None:
        try:
            await self._connection.door.serve(call)
        finally:
            del self._calls[call.stream]
            release_stream()
            self._one_is_done.set()
            self._one_is_done = anyio.Event()


class GrpcCall:
    """One call: a request to read, and an answer to write.

    Attributes:
        connection: What it came on.
        path: What is called.
        has_begun: Whether the response's headers were sent.
    """

    def __init__(self, connection: GrpcConnection, stream: Stream, headers: dict[str, str]) -> None:
        self.connection = connection
        self.stream = stream
        self.has_begun = False
        self._headers = headers
        self._scope: anyio.CancelScope | None = None
        self._client_has_left = False
        self._must_finish = False

    @property
    def path(self) -> str:
        return self._headers.get(":path", "")

    async def while_client_waits(self, function: Callable[[], Awaitable[object]]) -> None:
        """Calls a function, and cancels it when the client gives the call up."""
        # Made here and not before: what reads from the socket is on trio's side, under
        # trio, and a scope made there would be the wrong side's.
        with anyio.CancelScope() as self._scope:
            if self._client_has_left:
                self._scope.cancel()
            try:
                await function()
            except ProtocolError as error:
                # The stream was reset between two frames of ours.
                logger.debug("a call ended early: %s", error)

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self._client_has_left

    def client_left(self) -> None:
        """The client reset the stream, or its connection is gone."""
        self._client_has_left = True
        if self._scope is not None and not self._must_finish:
            self._scope.cancel()

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """What is done in this block is finished, also when the client leaves meanwhile."""
        self._must_finish = True
        try:
            yield
        finally:
            self._must_finish = False
            if self._scope is not None and self._client_has_left:
                self._scope.cancel()

    def check_is_grpc(self) -> None:
        """Refuses what is HTTP/2 and not gRPC.

        Raises:
            CallFailed: It is not a call in the protobuf encoding.
        """
        content_type = self._headers.get("content-type", "")
        if content_type not in ("application/grpc", "application/grpc+proto"):
            raise CallFailed(
                Status.INVALID_ARGUMENT, "content-type must be application/grpc or ...+proto"
            )
        if self._headers.get("grpc-encoding", "identity") != "identity":
            raise CallFailed(Status.UNIMPLEMENTED, "compressed messages are not accepted")

    async def read_request(self, request_type: type[M]) -> M:
        """Reads the one message of the request.

        Raises:
            CallFailed: It is too large, malformed, missing or too slow.
        """
        try:
            with anyio.fail_after(self.connection.door.limits.read_timeout):
                data = await self._read_message()
        except TimeoutError:
            raise CallFailed(Status.DEADLINE_EXCEEDED, "the request took too long") from None
        try:
            return cast(M, strict_decoder(request_type)(data))
        except ValueError as error:
            raise CallFailed(Status.INVALID_ARGUMENT, _what_is_wrong(data, request_type)) from error

    async def _read_message(self) -> bytes:
        prefix = await self._read(_PREFIX_SIZE)
        if prefix[0]:
            raise CallFailed(Status.UNIMPLEMENTED, "compressed messages are not accepted")
        size = int.from_bytes(prefix[1:], "big")
        door = self.connection.door
        if size > door.limits.message_bytes:
            raise CallFailed(
                Status.RESOURCE_EXHAUSTED,
                f"the message is too large: {size} bytes, "
                f"at most {door.limits.message_bytes} are accepted",
            )
        if size < door.limits.large_message_bytes:
            return await self._read(size)
        async with door.large_messages:
            return await self._read(size)

    async def _read(self, size: int) -> bytes:
        try:
            data = await self.stream.recv_data(size)
        except AssertionError as error:  # how grpclib says that there is less
            raise CallFailed(Status.INVALID_ARGUMENT, "the request ended too early") from error
        if len(data) != size:
            raise CallFailed(Status.INVALID_ARGUMENT, "the request holds no message")
        return data

    async def begin(self) -> None:
        """Sends the response's headers, if that is still to be done."""
        if not self.has_begun:
            self.has_begun = True
            await self.stream.send_headers(_RESPONSE_HEADERS)

    async def send(self, message: betterproto2.Message) -> None:
        """Sends one message of the response. Waits while the client holds us back."""
        await self.begin()
        data = encoder(type(message))(message)
        await self.stream.send_data(b"\0" + len(data).to_bytes(4, "big") + data)

    async def finish(self, status: Status = Status.OK, text: str = "") -> None:
        """Ends the call."""
        trailers = [] if self.has_begun else list(_RESPONSE_HEADERS)
        self.has_begun = True
        trailers.append(("grpc-status", str(status.value)))
        if text:
            trailers.append(("grpc-message", encode_grpc_message(text)))
        await self.stream.send_headers(trailers, end_stream=True)
        if self.stream.closable:
            # The client has not ended its side, and nobody will read it.
            self.stream.reset_nowait()

    def reset(self) -> None:
        """Ends the call without a word."""
        if self.stream.closable:
            self.stream.reset_nowait(ErrorCodes.INTERNAL_ERROR)


def _what_is_wrong(data: bytes, request_type: type[betterproto2.Message]) -> str:
    try:
        unknown = request_type.parse(data)._unknown_fields  # pyright: ignore[reportPrivateUsage]
    except Exception:  # noqa: BLE001 - whatever it dislikes about bytes of a client's
        unknown = b""
    if unknown:
        return f"the request has fields that {request_type.__name__} does not have"
    return "the request can't be parsed"


# Frames that HTTP/2 wants ignored, and that grpclib does not know.
_IGNORED_EVENTS = (AlternativeServiceAvailable, UnknownFrameReceived)

_H2_CONFIG = H2Configuration(
    client_side=False,
    header_encoding="ascii",
    validate_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)
