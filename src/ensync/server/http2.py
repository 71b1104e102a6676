"""One client's HTTP/2 connection to the gRPC door, and the calls on it.

grpclib frames, codes and controls the flow. Added here is what an engine needs
and grpclib's own server does not have: a limit on the size of a request before it
is read, on streams, and on how long a dead connection stays; and word of a
connection's end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol, cast

import anyio
from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol, Stream
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import AlternativeServiceAvailable, Event, UnknownFrameReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

from ensync.server.grpc_call import GrpcCall
from ensync.server.grpc_limits import GrpcLimits
from ensync.server.hooks import DoorConnection
from ensync.transports.bridge import AsyncioSide
from ensync.transports.corked import CorkedTransport
from ensync.transports.header_blocks import RememberingDecoder, RememberingEncoder

__all__ = ["GrpcConnection"]

logger = logging.getLogger("ensync")

_INITIAL_WINDOW = (1 << 16) - 1  # of every HTTP/2 connection
_PING = b"ensync.."  # eight bytes, as HTTP/2 wants

# Frames that HTTP/2 wants ignored, and that grpclib does not know.
_IGNORED_EVENTS = (AlternativeServiceAvailable, UnknownFrameReceived)

_H2_CONFIG = H2Configuration(
    client_side=False,
    header_encoding="latin-1",  # has a character for every byte that a client may send
    validate_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)


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
        self._h2 = _new_h2_connection()
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
            logger.warning("a connection was refused: the gRPC door is full, or is closing")
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
        elif silence > limits.ping_interval and not self.connection.is_closing():
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


def _new_h2_connection() -> H2Connection:
    connection = H2Connection(config=_H2_CONFIG)
    connection.encoder = RememberingEncoder()
    connection.decoder = RememberingDecoder(connection.decoder.max_header_list_size)
    return connection


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
        door = self._connection.door
        call = self._calls[stream] = GrpcCall(
            self._connection, stream, dict(headers), door.limits, door.large_messages
        )
        door.side.spawn(self._serve, call, release_stream, name="gRPC call")

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
