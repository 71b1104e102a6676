"""The client's half of HTTP/2, behind h2's interface and several times faster.

h2 checks every frame in both directions against tables, and makes objects for
each. Here is just what a gRPC client needs (RFC 9113): its own requests, which are
right by construction, and the server's frames, which are checked before anything
is made of them.

What is legal is understood, and what is not is refused as by h2, but for this:

- As RFC 9113 has it, and unlike h2: the server begins with its settings; a frame of
  an unknown kind, and an informational response, are passed over; a reset of a
  stream that never was is refused; the reserved bit of a WINDOW_UPDATE means
  nothing; what was under way may end after a GOAWAY; a frame that is too large is
  refused when its length is known; a stream may hang on itself.
- Nothing is kept of streams that are over, so all that comes for them is passed
  over, where h2 resets them again or gives the connection up.
- A stream that the server ends before the request is complete is reset.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    PingReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import (
    FlowControlError,
    FrameDataMissingError,
    FrameTooLargeError,
    InvalidBodyLengthError,
    ProtocolError,
)
from h2.settings import ChangedSetting, SettingCodes

from ensync.transports.header_blocks import (
    INVALID_LENGTH,
    BlockReader,
    HeaderBlock,
)
from ensync.transports.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    FRAME_HEADER_SIZE,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    MAX_FRAME_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    MIN_FRAME_SIZE,
    PADDED,
    PING,
    PING_SIZE,
    PRIORITY,
    PRIORITY_SIZE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    U32,
    WINDOW_UPDATE,
    error_code,
    frame,
    number_frame,
    without_padding,
)
from ensync.transports.lean_sending import LeanSender, LeanStream

__all__ = ["LeanConnection"]

_Handler: TypeAlias = Callable[[int, int, bytes, list[Event]], None]

_MAX_HEADER_BLOCK = 65_536
_MAX_BLOCK_FRAMES = 64


class _Partial:
    """A header block of which CONTINUATION frames are still to come."""

    def __init__(self, stream_id: int, flags: int, block: bytes) -> None:
        self.stream_id = stream_id
        self.flags = flags
        self.parts = [block]
        self.size = len(block)

    def add(self, part: bytes) -> None:
        self.parts.append(part)
        self.size += len(part)
        if self.size > _MAX_HEADER_BLOCK or len(self.parts) > _MAX_BLOCK_FRAMES:
            raise ProtocolError("a header block of more than 64 KiB, or 64 frames")


class LeanConnection(LeanSender):
    """The part of ``h2.connection.H2Connection`` that ``grpc_direct`` needs for a client."""

    def __init__(self) -> None:
        super().__init__()
        self._unread = b""
        self._reader = BlockReader()
        self._known_block = self._reader.known
        self._partial: _Partial | None = None
        # The one kind of frame that may come next; None for any.
        self._awaited: int | None = SETTINGS
        self._handlers: dict[int, _Handler] = {
            DATA: self._data,
            HEADERS: self._headers,
            PRIORITY: self._priority,
            RST_STREAM: self._rst_stream,
            SETTINGS: self._settings,
            PUSH_PROMISE: self._push_promise,
            PING: self._ping,
            GOAWAY: self._goaway,
            WINDOW_UPDATE: self._window_update,
            CONTINUATION: self._continuation,
        }

    def receive_data(self, data: bytes) -> list[Event]:
        """Takes what arrived.

        Raises:
            ProtocolError: The server breaks the rules; this is of no use any more.
        """
        if self._unread:
            data = self._unread + data
        events: list[Event] = []
        position, end = 0, len(data)
        while end - position >= FRAME_HEADER_SIZE:
            high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(data, position)
            size = high << 8 | low
            if size > MIN_FRAME_SIZE:
                raise FrameTooLargeError(f"a frame of {size} bytes")
            start = position + FRAME_HEADER_SIZE
            if start + size > end:
                break
            position = start + size
            if self._awaited is not None and kind != self._awaited:
                raise ProtocolError(f"a frame of kind {kind}, where kind {self._awaited} is due")
            handler = self._handlers.get(kind)
            if handler is not None:
                handler(flags, stream_id & MAX_STREAM_ID, data[start:position], events)
        self._unread = data[position:]
        return events

    def _data(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        size = len(body)
        self._in_window -= size
        if self._in_window < 0:
            raise FlowControlError("the server sends more than the connection's window")
        stream = self.streams.get(stream_id) or self._known(stream_id)
        data = without_padding(body) if flags & PADDED else body
        if stream is None:
            self.acknowledge_received_data(size, stream_id)
            return
        stream.in_window -= size
        if stream.in_window < 0:
            raise FlowControlError("the server sends more than the stream's window")
        if not stream.answered:
            raise ProtocolError("data before the response's headers")
        if stream.missing >= 0:
            _count_body(stream, len(data), flags)
        events.append(DataReceived(stream_id=stream_id, data=data, flow_controlled_length=size))
        if flags & END_STREAM:
            self._end(stream_id, events)

    def _headers(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if stream_id not in self.streams:
            self._known(stream_id)
        block = without_padding(body) if flags & PADDED else body
        if flags & HAS_PRIORITY:
            if len(block) < PRIORITY_SIZE:
                raise FrameDataMissingError("a HEADERS frame without its priority")
            block = block[PRIORITY_SIZE:]
        if flags & END_HEADERS:
            self._header_block(flags, stream_id, block, events)
        else:
            self._partial = _Partial(stream_id, flags, block)
            self._awaited = CONTINUATION

    def _continuation(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        partial = self._partial
        if partial is None or partial.stream_id != stream_id:
            raise ProtocolError("a CONTINUATION of nothing")
        partial.add(body)
        if flags & END_HEADERS:
            self._partial = self._awaited = None
            self._header_block(partial.flags, stream_id, b"".join(partial.parts), events)

    def _header_block(self, flags: int, stream_id: int, data: bytes, events: list[Event]) -> None:
        block = self._known_block(data) or self._reader.read(data)
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if block.informational or block.length == INVALID_LENGTH:
            _check_unusual(stream, block, flags)
        if block.informational:
            return
        # h2 declares header objects of its own, and gives tuples of text all the same.
        headers: Any = block.headers
        if not stream.answered:
            stream.answered = True
            stream.missing = block.length
            events.append(ResponseReceived(stream_id=stream_id, headers=headers))
        elif flags & END_STREAM:
            events.append(TrailersReceived(stream_id=stream_id, headers=headers))
        else:
            raise ProtocolError("trailers that do not end the stream")
        if flags & END_STREAM:
            self._end(stream_id, events)

    def _priority(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if not stream_id or len(body) != PRIORITY_SIZE:
            raise ProtocolError("a bad PRIORITY frame")

    def _rst_stream(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if len(body) != U32.size:
            raise ProtocolError("a bad RST_STREAM frame")
        if self._known(stream_id) is not None:
            del self.streams[stream_id]
            code = error_code(U32.unpack(body)[0])
            events.append(StreamReset(stream_id=stream_id, error_code=code, remote_reset=True))

    def _settings(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if stream_id or len(body) % SETTING.size or (flags & ACK and body):
            raise ProtocolError("a bad SETTINGS frame")
        if flags & ACK:
            self._settings_confirmed(events)
            return
        self._awaited = None
        changed: dict[Any, ChangedSetting] = {}
        for code, value in dict(SETTING.iter_unpack(body)).items():
            old = self._apply_setting(code, value)
            if old is not None:
                changed[SettingCodes(code)] = ChangedSetting(SettingCodes(code), old, value)
        self._out.append(frame(SETTINGS, ACK, 0))
        event = RemoteSettingsChanged()
        event.changed_settings = changed
        events.append(event)

    def _settings_confirmed(self, events: list[Event]) -> None:
        if not self._settings_unconfirmed or self._awaited is not None:
            raise ProtocolError("settings confirmed that were not sent")
        self._settings_unconfirmed -= 1
        events.append(SettingsAcknowledged())

    def _apply_setting(self, code: int, value: int) -> int | None:
        """Applies a setting that concerns a client; its value before, for those that change."""
        old: int | None = None
        if code == SettingCodes.MAX_CONCURRENT_STREAMS:
            old, self._max_streams = self._max_streams, value
        elif code == SettingCodes.INITIAL_WINDOW_SIZE:
            old = self._initial_out_window
            self._resize_windows(value)
        elif code == SettingCodes.MAX_FRAME_SIZE:
            if not MIN_FRAME_SIZE <= value <= MAX_FRAME_SIZE:
                raise ProtocolError(f"a frame size of {value}")
            old, self.max_outbound_frame_size = self.max_outbound_frame_size, value
        elif code == SettingCodes.HEADER_TABLE_SIZE:
            self._encoder.limit_table(value)
        elif code == SettingCodes.ENABLE_PUSH and value:
            raise ProtocolError("a server that takes pushes")
        elif code == SettingCodes.ENABLE_CONNECT_PROTOCOL and value > 1:
            raise ProtocolError(f"a setting of {value} that is on or off")
        return old

    def _resize_windows(self, value: int) -> None:
        if value > MAX_WINDOW:
            raise FlowControlError(f"a window of {value}")
        delta, self._initial_out_window = value - self._initial_out_window, value
        for stream in self.streams.values():
            stream.out_window += delta
            if stream.out_window > MAX_WINDOW:
                raise FlowControlError("a window that is too large")

    def _push_promise(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        raise ProtocolError("a push, although pushes are off")

    def _ping(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if stream_id or len(body) != PING_SIZE:
            raise ProtocolError("a bad PING frame")
        if flags & ACK:
            events.append(PingAckReceived(ping_data=body))
        else:
            self._out.append(frame(PING, ACK, 0, body))
            events.append(PingReceived(ping_data=body))

    def _goaway(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if stream_id or len(body) < 2 * U32.size:
            raise ProtocolError("a bad GOAWAY frame")
        last, code = struct.unpack_from(">II", body)
        event = ConnectionTerminated()
        event.last_stream_id = last & MAX_STREAM_ID
        event.error_code = error_code(code)
        event.additional_data = body[8:] or None
        self.is_closed = True
        events.append(event)

    def _window_update(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if len(body) != U32.size:
            raise ProtocolError("a bad WINDOW_UPDATE frame")
        delta = U32.unpack(body)[0] & MAX_WINDOW
        if not delta:
            raise ProtocolError("a WINDOW_UPDATE of 0")
        if not stream_id:
            self._out_window += delta
            if self._out_window > MAX_WINDOW:
                raise FlowControlError("a window that is too large")
        else:
            stream = self._known(stream_id)
            if stream is None:
                return
            stream.out_window += delta
            if stream.out_window > MAX_WINDOW:
                self._refuse_window(stream_id, events)
                return
        events.append(WindowUpdated(stream_id=stream_id, delta=delta))

    def _refuse_window(self, stream_id: int, events: list[Event]) -> None:
        code = ErrorCodes.FLOW_CONTROL_ERROR
        self.reset_stream(stream_id, code)
        events.append(StreamReset(stream_id=stream_id, error_code=code, remote_reset=False))

    def _known(self, stream_id: int) -> LeanStream | None:
        """The stream; None when it is over. Raises for one that never was."""
        if not stream_id or stream_id >= self._next_stream_id or not stream_id % 2:
            raise ProtocolError(f"a frame for stream {stream_id}, which never was")
        return self.streams.get(stream_id)

    def _end(self, stream_id: int, events: list[Event]) -> None:
        events.append(StreamEnded(stream_id=stream_id))
        stream = self.streams.pop(stream_id)
        if not stream.local_ended:
            # Nobody wants to hear the rest of the request.
            self._out.append(number_frame(RST_STREAM, stream_id, ErrorCodes.CANCEL))


def _count_body(stream: LeanStream, size: int, flags: int) -> None:
    promised, stream.missing = stream.missing, stream.missing - size
    if stream.missing < 0 or (flags & END_STREAM and stream.missing):
        raise InvalidBodyLengthError(promised, size)


def _check_unusual(stream: LeanStream, block: HeaderBlock, flags: int) -> None:
    if block.length == INVALID_LENGTH:
        raise ProtocolError("a content-length that is none")
    if stream.answered or flags & END_STREAM:
        raise ProtocolError("an informational response that is out of place")
