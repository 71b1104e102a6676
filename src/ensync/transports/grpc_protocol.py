"""grpclib's protocol and channel, on one connection that is never made anew.

What leans on how grpclib works inside is here: its event processors, and the
channel's way to its protocol.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, cast

import anyio
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    AlternativeServiceAvailable,
    ConnectionTerminated,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    PingReceived,
    RemoteSettingsChanged,
    StreamReset,
    UnknownFrameReceived,
)
from h2.exceptions import ProtocolError as H2Error
from h2.settings import SettingCodes

from ensync.address import Address
from ensync.transports.base import Progress
from ensync.transports.cork import CallSoon
from ensync.transports.corked import CorkedTransport
from ensync.transports.http2_frames import DEFAULT_WINDOW
from ensync.transports.lean_http2 import LeanConnection
from ensync.transports.socket_progress import SocketProgress

__all__ = ["CONNECTION_WINDOW", "STREAM_WINDOW", "ClientProtocol", "FixedChannel", "ProtocolOwner"]

# One unread subscription may fill its stream's window. Were the connection's window
# no larger, that would stall every call on the connection.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = (1 << 31) - 1

_FRAME_TYPE_AT = 3
_SETTINGS_FRAME = 4
_TLS_ALERT = 0x15

# What may always come, and is to be passed over (RFC 9113, 5.5 and 8.1; RFC 7838, 4).
_PASSED_OVER = (AlternativeServiceAvailable, InformationalResponseReceived, UnknownFrameReceived)
# So many pings and settings are answered while the engine takes nothing from its socket.
_UNREAD_ANSWERS = 1000
_PING = b"ensync  "

_Processors: TypeAlias = dict[type[Any], Callable[[Any], None]]


class ProtocolOwner(Protocol):
    """A connection, as its protocol sees it."""

    def set_stream_limit(self, limit: int) -> None: ...

    def connection_ended(self, reason: str, cause: BaseException | None) -> None: ...

    def going_away(self, reason: str) -> None:
        """The engine takes no more, and finishes what it has begun before it ends."""

    def start_waiting(self) -> None:
        """The socket takes more."""

    def pinged(self) -> None:
        """The engine has answered a ping."""

    def lean_not_enough(self) -> None:
        """The engine's HTTP/2 is not what the lean one takes; h2 may take it."""


class _Flood(Exception):
    """Control frames without an end."""


def _pass_over(_event: object) -> None:
    """Nothing is to be done about it."""


class FixedChannel(Channel):
    """A grpclib channel on a connection that is already there, and never reconnects."""

    def __init__(self, address: Address, protocol: H2Protocol, tls: ssl.SSLContext | None) -> None:
        super().__init__(address.host, address.port, ssl=tls)  # pyright: ignore[reportUnknownMemberType]
        self._fixed_protocol = protocol

    async def __connect__(self) -> H2Protocol:
        return self._fixed_protocol


class _ClientHandler(AbstractHandler):
    """Where grpclib says that it closed the connection, whatever the reason."""

    def __init__(self, protocol: ClientProtocol) -> None:
        self._protocol = protocol

    def accept(self, stream: Any, headers: Any, release_stream: Any) -> None:
        raise NotImplementedError("an engine does not call its clients")

    def cancel(self, stream: Any) -> None:
        """A single stream was reset; whoever reads it is told by grpclib."""

    def close(self) -> None:
        self._protocol.ended()


class ClientProtocol(H2Protocol):
    """grpclib's protocol, telling its owner of settings and of every kind of end."""

    def __init__(self, owner: ProtocolOwner, call_soon: CallSoon, *, lean: bool) -> None:
        self._owner = owner
        self._lean = lean
        self._call_soon = call_soon
        self._transport: Any = None
        self._greeted = False
        self._over = False
        self._reads = 0
        self._unread_answers = 0
        self._reason = "closed by the engine"
        self._cause: BaseException | None = None
        self.closed = anyio.Event()
        self.on_refused: Callable[[int], object] = _pass_over
        config = Configuration(
            http2_connection_window_size=CONNECTION_WINDOW, http2_stream_window_size=STREAM_WINDOW
        )
        h2_config = H2Configuration(
            client_side=True,
            header_encoding="ascii",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(_ClientHandler(self), config.__for_client__(), h2_config)

    def connection_made(self, transport: Any) -> None:
        self._transport = CorkedTransport(transport, self._call_soon)
        self._socket_progress = SocketProgress(transport.get_extra_info("socket"))
        if self._lean:
            self._begin_lean()
        else:
            super().connection_made(self._transport)
        self._transport.source = self.h2.data_to_send
        # Kept, since grpclib drops them when it closes; what was read with that may still come.
        self._processors = cast("_Processors", self.processor.processors)
        self._processors.update(dict.fromkeys(_PASSED_OVER, _pass_over))
        self._listen(RemoteSettingsChanged, self._settings_changed)
        self._listen(RemoteSettingsChanged, self._answered)
        self._listen(PingReceived, self._answered)
        self._listen(PingAckReceived, self._ping_answered)
        self._listen(StreamReset, self._stream_reset)
        self._listen(ConnectionTerminated, self._going_away)
        if self._lean:
            self._let_calls_end()

    def _begin_lean(self) -> None:
        # What grpclib does when a connection is made, with the other HTTP/2 below.
        http2 = LeanConnection()
        http2.initiate_connection()
        http2.increment_flow_control_window(CONNECTION_WINDOW - DEFAULT_WINDOW)
        http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW})
        self.connection = Connection(cast("Any", http2), self._transport, config=self.config)
        self.connection.flush()
        self.processor = EventsProcessor(self.handler, self.connection)

    def _listen(self, event_type: type[Any], listener: Callable[[Any], None]) -> None:
        process = self._processors[event_type]

        def both(event: Any) -> None:
            listener(event)
            process(event)

        self._processors[event_type] = both

    def take_over(self, processors: Mapping[type[Event], Callable[[Any], None]]) -> None:
        """Has events processed in other ways than grpclib's."""
        self._processors.update(processors)

    def _answered(self, _event: object) -> None:
        # Where nobody reads the answers, they pile up.
        if self.connection.write_ready.is_set():
            self._unread_answers = 0
            return
        self._unread_answers += 1
        if self._unread_answers > _UNREAD_ANSWERS:
            raise _Flood("the engine asks and asks, and does not read the answers")

    def _settings_changed(self, event: RemoteSettingsChanged) -> None:
        changed = event.changed_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS)
        if changed is not None:
            self._owner.set_stream_limit(changed.new_value)

    def _going_away(self, event: ConnectionTerminated) -> None:
        self._reason = f"the engine is going away (GOAWAY, error code {event.error_code})"

    def _let_calls_end(self) -> None:
        # At a GOAWAY grpclib ends what the engine is about to answer, and h2 reads no more.
        end = self._processors[ConnectionTerminated]

        def end_or_wait(event: ConnectionTerminated) -> None:
            if event.error_code != ErrorCodes.NO_ERROR:
                for number in self._unheard(event):
                    self.on_refused(number)
                end(event)
                return
            self._going_away(event)
            self._owner.going_away(self._reason)
            self._end_unheard(event)

        self._processors[ConnectionTerminated] = end_or_wait

    def _unheard(self, event: ConnectionTerminated) -> list[int]:
        last_heard = event.last_stream_id or 0
        return [number for number in self.exchanges if number > last_heard]

    def _end_unheard(self, event: ConnectionTerminated) -> None:
        for number in self._unheard(event):
            exchange = self.exchanges.get(number)
            if exchange is not None:
                self.on_refused(number)
                exchange.__terminated__(self._reason)

    def _stream_reset(self, event: StreamReset) -> None:
        if event.error_code == ErrorCodes.REFUSED_STREAM:
            # Then nothing was done about it (RFC 9113, 8.7).
            self.on_refused(event.stream_id or 0)

    def _ping_answered(self, _event: object) -> None:
        self._owner.pinged()

    def ping(self) -> None:
        """Asks for a sign of life in HTTP/2's own way."""
        with suppress(H2Error):  # it is over, which is about to be told
            self.h2.ping(_PING)
            self.connection.flush()

    def progress(self) -> Progress:
        """How far the bytes of this connection have come."""
        if self._transport is None:
            return Progress(self._reads, 0, 0)
        written, unsent = self._transport.written, self._transport.unsent_bytes
        return self._socket_progress.now(self._reads, written, unsent)

    def data_received(self, data: bytes) -> None:
        self._reads += 1
        if not self._greeted and not self._check_greeting(data):
            return
        self._transport.hold()
        try:
            self._process(self.connection.feed(data))
        except Exception as error:  # noqa: BLE001 - grpclib raises on frames it has no handler for
            self._reason, self._cause = f"a frame that can't be handled: {error!r}", error
            if self._lean and isinstance(error, H2Error):
                self._owner.lean_not_enough()
            self.ended()
        else:
            if not self.connection.is_closing():
                self.connection.flush()
                self._transport.release()

    def _process(self, events: list[Event]) -> None:
        for event in events:
            if self._over:
                return
            process = self._processors.get(event.__class__)
            if process is None:
                raise NotImplementedError(event)
            process(event)

    def has_more(self, size: int) -> None:
        """Has so many bytes written that HTTP/2 was given, before long."""
        self._transport.announce(size)

    def _check_greeting(self, data: bytes) -> bool:
        self._greeted = True
        if len(data) <= _FRAME_TYPE_AT or data[_FRAME_TYPE_AT] == _SETTINGS_FRAME:
            return True
        if data[0] == _TLS_ALERT:
            self._reason = "it answers in TLS; say grpcs:// instead of grpc://"
        else:
            self._reason = f"it does not speak gRPC (its first bytes are {data[:16]!r})"
        self.ended()
        return False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._owner.start_waiting()

    @property
    def h2(self) -> H2Connection:
        """The HTTP/2 connection below grpclib's."""
        return self.connection._connection  # pyright: ignore[reportPrivateUsage]

    @property
    def exchanges(self) -> dict[int, Any]:
        """What is told of each stream's frames, by the stream's number."""
        return cast("dict[int, Any]", self.processor.streams)

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None:
            self._reason, self._cause = str(exc) or repr(exc), exc
        self.closed.set()
        # Nothing is left to abort; asyncio, asked to, would tell of a second end.
        self._transport = None
        super().connection_lost(exc)

    def ended(self) -> None:
        self._over = True
        self._owner.connection_ended(self._reason, self._cause)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        self._transport.close()
