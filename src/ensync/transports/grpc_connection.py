"""One HTTP/2 connection to an engine: what it carries, its limits, and its one end.

Calls queue fairly in front of the engine's stream limit, every way in which the
connection can die ends in one place, and dying never waits for a write buffer.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, cast, get_args

import anyio
import betterproto2
from grpclib.exceptions import ProtocolError, StreamTerminatedError

from ensync.address import Address
from ensync.errors import EnSyncConnectionError
from ensync.transports.base import Carrier, Outcome, Progress, ReplyCallback
from ensync.transports.bridge import AsyncioSide
from ensync.transports.connect_errors import network_error
from ensync.transports.grpc_compressing import CompressingWire
from ensync.transports.grpc_direct import DirectWire
from ensync.transports.grpc_plain import PlainWire
from ensync.transports.grpc_protocol import ClientProtocol, FixedChannel
from ensync.transports.grpc_wire import ServerStream, StreamResult, UnaryCall, UnaryResult, Wire
from ensync.transports.ping_call import PingCall

__all__ = ["HTTP2_WAYS", "GrpcConnection", "Http2"]

Http2: TypeAlias = Literal["auto", "h2", "grpclib"]
HTTP2_WAYS: tuple[Http2, ...] = get_args(Http2)

# Assumed until the engine's SETTINGS frame says otherwise.
_DEFAULT_STREAM_LIMIT = 100
# One in so many calls at a time is never an acknowledgement.
_SHARE_OF_OTHERS = 8
# Seconds that an engine which is going away has for what it has begun.
_PATIENCE = 5.0

CallLater: TypeAlias = Callable[[float, Callable[[], object]], Callable[[], object]]


def _nothing() -> None:
    """What is to be cancelled where nothing was begun."""


class GrpcConnection(Carrier):
    """Made by :meth:`open`; lost once, for good.

    Attributes:
        acknowledging: How many acknowledgements were given to it, by all of its links, and
            are not answered yet.
    """

    def __init__(self, address: Address, call_later: CallLater) -> None:
        self._address = address
        self._call_later = call_later
        self.needs_h2 = False
        self._protocol: ClientProtocol | None = None
        self._wire: Wire | None = None
        self._urgent: deque[UnaryCall] = deque()
        self._waiting: deque[UnaryCall] = deque()
        self._pings: list[PingCall] = []
        self.acknowledging = 0
        self._running: set[UnaryCall] = set()
        self._streams: set[ServerStream] = set()
        self._losing: list[Callable[[EnSyncConnectionError], None]] = []
        self._stream_limit = _DEFAULT_STREAM_LIMIT
        self._slots = self._acknowledgement_slots = 0
        self._count_slots()
        self._starting = False
        self.error: EnSyncConnectionError | None = None
        self._silent_at: int | None = None
        self._farewell: EnSyncConnectionError | None = None
        self._cancel_patience: Callable[[], object] = _nothing

    @classmethod
    async def open(
        cls,
        address: Address,
        side: AsyncioSide,
        tls: ssl.SSLContext | None,
        http2: Http2,
        *,
        compresses: bool = False,
    ) -> GrpcConnection:
        """Connects the socket and, where asked for, TLS.

        Args:
            address: Where the engine is.
            side: The asyncio side that is running.
            tls: Trust and certificates, where there is to be TLS.
            http2: What speaks HTTP/2.
            compresses: Whether messages are compressed where the engine takes them so, which
                grpclib's public API can't do.

        Raises:
            EnSyncConnectionError: With a text that says which step failed.
        """
        connection = cls(address, side.call_later)
        protocol = await _open_protocol(connection, address, side, tls, http2)
        connection._protocol = protocol
        if connection.lost:
            # What speaks first may have been found to be no engine before this was known.
            protocol.abort()
        if http2 == "grpclib":
            connection._wire = PlainWire(connection, side, FixedChannel(address, protocol, tls))
        else:
            wire = CompressingWire if compresses else DirectWire
            connection._wire = wire(connection, protocol, address)
        return connection

    @property
    def lost(self) -> bool:
        return self.error is not None

    @property
    def takes_more(self) -> bool:
        """Whether new calls and streams may be started on it."""
        return self.error is None and self._farewell is None

    @property
    def is_doubtful(self) -> bool:
        """Whether it may be dead, so that nothing new should rely on it."""
        return self._silent_at is not None and self._silent_at == self.progress().received

    def doubt(self, received: int) -> None:
        """Somebody has asked in vain, when so much had been received."""
        self._silent_at = received

    @property
    def stream_limit(self) -> int:
        # An engine that takes none for a while is asked all the same: subscriptions
        # are tried again, and do not wait as calls do.
        return max(1, self._stream_limit)

    @property
    def subscriptions(self) -> int:
        return len(self._streams)

    @property
    def has_slot_for_heartbeat(self) -> bool:
        """Whether the engine's limit leaves a place that no subscription has taken."""
        return len(self._streams) < self.stream_limit

    @property
    def room_to_acknowledge(self) -> int:
        """How many more acknowledgements may be given to it, so that others find a place."""
        return self._acknowledgement_slots - self.acknowledging

    def _count_slots(self) -> None:
        """How many calls it may carry at a time, without those that are urgent."""
        slots = self._stream_limit - len(self._streams)
        self._slots = slots = slots - 1 if slots > 1 else slots
        self._acknowledgement_slots = max(1, slots - max(1, slots // _SHARE_OF_OTHERS))

    def progress(self) -> Progress:
        return Progress(0, 0, 0) if self._protocol is None else self._protocol.progress()

    def when_lost(self, callback: Callable[[EnSyncConnectionError], None]) -> None:
        self._losing.append(callback)

    def forget_when_lost(self, callback: Callable[[EnSyncConnectionError], None]) -> None:
        if callback in self._losing:
            self._losing.remove(callback)

    # What it carries

    def call(
        self,
        path: str,
        message: betterproto2.Message,
        reply_type: type[betterproto2.Message],
        on_result: Callable[[UnaryResult], None],
        on_sent: Callable[[bool], None] | None = None,
        *,
        urgent: bool = False,
    ) -> UnaryCall:
        """Queues a request behind the engine's stream limit, first come first served.

        What is urgent goes first, and has a place that is kept for it.
        """
        call = UnaryCall(self, path, message, reply_type, on_result, on_sent)
        if self.error is not None:
            call.finish(self.error)
        else:
            (self._urgent if urgent else self._waiting).append(call)
            self.start_waiting()
        return call

    def ping(self, on_reply: ReplyCallback) -> PingCall:
        """Asks for a sign of life where the engine's limit leaves no place for a call."""
        call = PingCall(on_reply)
        if self.error is not None or self._protocol is None:
            on_reply(self.error or self._lost_because("it was never made"))
            return call
        call.sent = True
        self._pings.append(call)
        self._protocol.ping()
        return call

    def pinged(self) -> None:
        """The engine has answered a ping, and with it all that came before."""
        self._answer_pings(Outcome(True))

    def _answer_pings(self, answer: Outcome | EnSyncConnectionError) -> None:
        pings, self._pings = self._pings, []
        for call in pings:
            call.answer(answer)

    def stream(
        self,
        path: str,
        message: betterproto2.Message,
        message_type: type[betterproto2.Message],
        *,
        on_open: Callable[[], None],
        on_message: Callable[[Any], None],
        on_end: Callable[[StreamResult], None],
    ) -> ServerStream:
        """Starts a server stream. The caller has looked whether there is room."""
        stream = ServerStream(self, path, message, message_type, on_open, on_message, on_end)
        if self.error is not None:
            stream.finish(self.error)
        else:
            assert self._wire is not None
            self._streams.add(stream)
            self._count_slots()
            self._wire.start_stream(stream)
        return stream

    def call_ended(self, call: UnaryCall) -> None:
        if call in self._running:
            self._running.discard(call)
            self.start_waiting()
            if self._farewell is not None:
                self._end_when_done(self._farewell)
        else:
            for queue in (self._urgent, self._waiting):
                if call in queue:
                    queue.remove(call)

    def stream_ended(self, stream: ServerStream) -> None:
        self._streams.discard(stream)
        self._count_slots()
        self.start_waiting()

    def start_waiting(self) -> None:
        """Starts what waits, as far as the engine and the socket allow."""
        if self._starting or not (self._waiting or self._urgent):
            return  # the former is so when a call that failed at once has ended
        self._starting = True
        try:
            self._start_waiting()
        finally:
            self._starting = False

    def _start_waiting(self) -> None:
        wire = self._wire
        if wire is None:
            return
        while (self._waiting or self._urgent) and wire.writable():
            queue = self._next_queue()
            if not queue:
                return
            call = queue.popleft()
            self._running.add(call)
            wire.start_call(call)

    def _next_queue(self) -> deque[UnaryCall] | None:
        """Where the next call is to be taken from, if one may be started."""
        if self.error is not None or self._farewell is not None:
            return None
        running = len(self._running)
        if self._urgent and running < self._stream_limit - len(self._streams):
            return self._urgent
        return self._waiting if running < self._slots else None

    # Losing

    def translate(self, error: Exception) -> EnSyncConnectionError:
        known = self.error or self._farewell
        if known is not None:
            return known
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
        """Tears everything down now: what it carries is finished first, then losers are told."""
        if self.error is not None:
            return
        self.error = error
        self._cancel_patience()
        if self._protocol is not None:
            self._protocol.abort()
        calls = [*self._running, *self._urgent, *self._waiting]
        streams = list(self._streams)
        self._urgent.clear()
        self._waiting.clear()
        for call in calls:
            call.undo()
            call.finish(error)
        for stream in streams:
            stream.undo()
            stream.finish(error)
        self._answer_pings(error)
        losing, self._losing = self._losing, []
        for callback in losing:
            callback(error)

    async def aclose(self) -> None:
        """Closes in an orderly way, within a second."""
        if self.lost or self._protocol is None:
            return
        self._losing.clear()
        with anyio.move_on_after(1, shield=True):
            for stream in list(self._streams):
                stream.cancel()
            self._protocol.close()
            await self._protocol.closed.wait()
        self.lose(EnSyncConnectionError("this connection was closed", code="closed"))

    # What the protocol reports

    def set_stream_limit(self, limit: int) -> None:
        self._stream_limit = limit
        self._count_slots()
        self.start_waiting()

    def going_away(self, reason: str) -> None:
        """The engine takes no more, and finishes what it has begun before it ends."""
        if self._farewell is None:
            self._farewell = self._lost_because(reason)
            expire = partial(self.lose, self._farewell)
            self._cancel_patience = self._call_later(_PATIENCE, expire)
        self._end_when_done(self._farewell)

    def _end_when_done(self, farewell: EnSyncConnectionError) -> None:
        if not self._running:
            self.lose(farewell)

    def lean_not_enough(self) -> None:
        self.needs_h2 = True

    def connection_ended(self, reason: str, cause: BaseException | None) -> None:
        error = self._lost_because(reason)
        error.__cause__ = cause
        self.lose(error)

    def _lost_because(self, reason: str) -> EnSyncConnectionError:
        return EnSyncConnectionError(
            f"the connection to {self._address.url} was lost: {reason}", code="link_lost"
        )


async def _open_protocol(
    connection: GrpcConnection,
    address: Address,
    side: AsyncioSide,
    tls: ssl.SSLContext | None,
    http2: Http2,
) -> ClientProtocol:
    def make() -> ClientProtocol:
        return ClientProtocol(connection, side.call_soon, lean=http2 == "auto")

    try:
        protocol = await side.create_connection(make, address.host, address.port, tls=tls)
    except OSError as error:
        raise network_error(address, error) from error
    return cast("ClientProtocol", protocol)
