"""The client's half of HTTP/2, behind h2's interface and several times faster.

h2 checks every frame in both directions against tables, and makes objects for
each. Here is just what a gRPC client needs (RFC 9113): its own requests, which are
right by construction, and the server's frames, which are checked before anything
is made of them. Two ideas carry it:

- A request's header block is written without the dynamic table, so that it depends
  on the headers alone and is put together once for each distinct list of them.
- A header table of size 0 is announced, so that the server's blocks depend on
  nothing before them: once the server has agreed, a block seen before is looked up.

What a server may legally do and this does not know raises :class:`NotUnderstood`;
the connection is then made anew with h2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import hpack
from h2.connection import ConnectionState
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
    NoAvailableStreamIDError,
    ProtocolError,
    StreamClosedError,
    TooManyStreamsError,
)
from h2.settings import ChangedSetting, SettingCodes

__all__ = ["LeanConnection", "NotUnderstood"]

Headers: TypeAlias = list[tuple[str, str]]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEADER = struct.Struct(">HBBBI")  # length in two parts, type, flags, stream
_FRAME_HEADER_SIZE = 9
_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0, 1, 2, 3, 4
_PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 5, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

_DEFAULT_WINDOW = 65_535
_MAX_WINDOW = (1 << 31) - 1
_MAX_STREAM_ID = (1 << 31) - 1
_FRAME_SIZE = 16_384  # the largest that we take, and the smallest that a peer takes
_MAX_FRAME_SIZE = (1 << 24) - 1
_MAX_HEADER_BLOCK = 65_536
_REMEMBERED_BLOCKS = 256
_PRIORITY_SIZE = 5
_PING_SIZE = 8


class NotUnderstood(ProtocolError):
    """The server does something legal that this does not know."""


def _frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    size = len(body)
    return _FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + body


def _literal(name: str, value: str) -> bytes:
    """One header, without indexing and without the Huffman code (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name.encode("ascii")) + _string(value.encode("ascii"))


def _string(text: bytes) -> bytes:
    size, prefix = len(text), 127
    if size < prefix:
        return bytes((size,)) + text
    out, size = bytearray((prefix,)), size - prefix
    while size > prefix:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + text


def _error_code(code: int) -> ErrorCodes | int:
    try:
        return ErrorCodes(code)
    except ValueError:
        return code


@dataclass(slots=True)
class _Stream:
    out_window: int
    in_window: int
    owed: int = 0
    local_ended: bool = False
    answered: bool = False

    @property
    def open(self) -> bool:
        return True

    @property
    def closed(self) -> bool:
        return False


@dataclass(slots=True)
class _Partial:
    """A header block of which CONTINUATION frames are still to come."""

    stream_id: int
    flags: int
    block: bytes


class LeanConnection:
    """The part of ``h2.connection.H2Connection`` that grpclib uses for a client."""

    def __init__(self) -> None:
        self.streams: dict[int, _Stream] = {}
        self.state_machine = SimpleNamespace(state=ConnectionState.IDLE)
        self.local_settings = SimpleNamespace(initial_window_size=_DEFAULT_WINDOW)
        self.max_outbound_frame_size = _FRAME_SIZE
        self._out: list[bytes] = []
        self._unread = b""
        self._next_stream_id = 1
        self._out_window = _DEFAULT_WINDOW
        self._initial_out_window = _DEFAULT_WINDOW
        self._in_window = self._max_in_window = _DEFAULT_WINDOW
        self._initial_in_window = _DEFAULT_WINDOW
        self._owed = 0
        self._max_streams = _MAX_STREAM_ID
        self._decoder = hpack.Decoder(max_header_list_size=_MAX_HEADER_BLOCK)
        self._written_blocks: dict[tuple[tuple[str, str], ...], bytes] = {}
        self._read_blocks: dict[bytes, Headers] = {}
        self._blocks_are_stateless = False
        self._partial: _Partial | None = None
        self._greeted = False
        self._settings_unconfirmed = 0
        self._handlers: dict[int, Callable[[int, int, bytes, list[Event]], None]] = {
            _DATA: self._data,
            _HEADERS: self._headers,
            _PRIORITY: self._priority,
            _RST_STREAM: self._rst_stream,
            _SETTINGS: self._settings,
            _PUSH_PROMISE: self._push_promise,
            _PING: self._ping,
            _GOAWAY: self._goaway,
            _WINDOW_UPDATE: self._window_update,
            _CONTINUATION: self._continuation,
        }

    # Sending

    def initiate_connection(self) -> None:
        self.state_machine.state = ConnectionState.CLIENT_OPEN
        self._out.append(_PREFACE)
        self._send_settings({SettingCodes.HEADER_TABLE_SIZE: 0, SettingCodes.ENABLE_PUSH: 0})

    def update_settings(self, settings: Mapping[Any, int]) -> None:
        self._send_settings(settings)
        window = settings.get(SettingCodes.INITIAL_WINDOW_SIZE)
        if window is not None:
            self._initial_in_window = window

    def _send_settings(self, settings: Mapping[Any, int]) -> None:
        body = b"".join(_SETTING.pack(int(code), value) for code, value in settings.items())
        self._out.append(_frame(_SETTINGS, 0, 0, body))
        self._settings_unconfirmed += 1

    def increment_flow_control_window(self, increment: int) -> None:
        self._in_window += increment
        self._max_in_window = self._in_window
        self._out.append(_frame(_WINDOW_UPDATE, 0, 0, _U32.pack(increment)))

    def get_next_available_stream_id(self) -> int:
        if self._next_stream_id > _MAX_STREAM_ID:
            raise NoAvailableStreamIDError("this connection has used up its stream numbers")
        return self._next_stream_id

    def send_headers(self, stream_id: int, headers: Headers, end_stream: bool = False) -> None:
        if self.state_machine.state is ConnectionState.CLOSED:
            raise ProtocolError("the connection is closed")
        if len(self.streams) >= self._max_streams:
            raise TooManyStreamsError(f"the server takes {self._max_streams} streams at a time")
        self._next_stream_id = stream_id + 2
        self.streams[stream_id] = _Stream(
            self._initial_out_window, self._initial_in_window, local_ended=end_stream
        )
        block = self._block_of(headers)
        flags = _END_STREAM if end_stream else 0
        limit = self.max_outbound_frame_size
        if len(block) <= limit:
            self._out.append(_frame(_HEADERS, flags | _END_HEADERS, stream_id, block))
            return
        self._out.append(_frame(_HEADERS, flags, stream_id, block[:limit]))
        for start in range(limit, len(block), limit):
            part = block[start : start + limit]
            last = _END_HEADERS if start + limit >= len(block) else 0
            self._out.append(_frame(_CONTINUATION, last, stream_id, part))

    def _block_of(self, headers: Headers) -> bytes:
        key = tuple(headers)
        block = self._written_blocks.get(key)
        if block is None:
            block = b"".join(_literal(name, value) for name, value in key)
            if len(self._written_blocks) < _REMEMBERED_BLOCKS:
                self._written_blocks[key] = block
        return block

    def local_flow_control_window(self, stream_id: int) -> int:
        return min(self._stream(stream_id).out_window, self._out_window)

    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        stream = self._stream(stream_id)
        size = len(data)
        if stream.local_ended:
            raise StreamClosedError(stream_id)
        if size > min(stream.out_window, self._out_window):
            raise FlowControlError(f"{size} bytes are more than the window")
        if size > self.max_outbound_frame_size:
            raise FrameTooLargeError(f"{size} bytes are more than a frame holds")
        stream.out_window -= size
        self._out_window -= size
        self._out.append(_frame(_DATA, _END_STREAM if end_stream else 0, stream_id, data))
        stream.local_ended = end_stream

    def end_stream(self, stream_id: int) -> None:
        self.send_data(stream_id, b"", end_stream=True)

    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None:
        self._stream(stream_id)
        del self.streams[stream_id]
        self._out.append(_frame(_RST_STREAM, 0, stream_id, _U32.pack(int(error_code))))

    def _stream(self, stream_id: int) -> _Stream:
        stream = self.streams.get(stream_id)
        if stream is None:
            raise StreamClosedError(stream_id)
        return stream

    def acknowledge_received_data(self, size: int, stream_id: int) -> None:
        self._owed += size
        if self._owed * 2 >= self._max_in_window:
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, _U32.pack(self._owed)))
            self._in_window += self._owed
            self._owed = 0
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        stream.owed += size
        if stream.owed * 2 >= self._initial_in_window:
            self._out.append(_frame(_WINDOW_UPDATE, 0, stream_id, _U32.pack(stream.owed)))
            stream.in_window += stream.owed
            stream.owed = 0

    def ping(self, data: bytes) -> None:
        self._out.append(_frame(_PING, 0, 0, data))

    def data_to_send(self, amount: int | None = None) -> bytes:
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data

    # Receiving

    def receive_data(self, data: bytes) -> list[Event]:
        """Takes what arrived.

        Raises:
            ProtocolError: The server breaks the rules, or does what is not known here.
        """
        if self._unread:
            data = self._unread + data
        events: list[Event] = []
        position, end = 0, len(data)
        while end - position >= _FRAME_HEADER_SIZE:
            high, low, kind, flags, stream_id = _FRAME_HEADER.unpack_from(data, position)
            size = high << 8 | low
            if size > _FRAME_SIZE:
                raise FrameTooLargeError(f"a frame of {size} bytes")
            start = position + _FRAME_HEADER_SIZE
            if start + size > end:
                break
            position = start + size
            self._frame_arrived(
                kind, flags, stream_id & _MAX_STREAM_ID, data[start:position], events
            )
        self._unread = data[position:]
        return events

    def _frame_arrived(
        self, kind: int, flags: int, stream_id: int, body: bytes, events: list[Event]
    ) -> None:
        if not self._greeted and (kind != _SETTINGS or flags & _ACK):
            raise ProtocolError("the server does not begin with its settings")
        self._greeted = True
        if self._partial is not None and kind != _CONTINUATION:
            raise ProtocolError("a header block is broken off by another frame")
        handler = self._handlers.get(kind)
        if handler is not None:  # a frame of another kind is to be ignored (RFC 9113, 5.5)
            handler(flags, stream_id, body, events)

    def _data(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        size = len(body)
        self._in_window -= size
        if self._in_window < 0:
            raise FlowControlError("the server sends more than the connection's window")
        stream = self._known(stream_id)
        data = _without_padding(body) if flags & _PADDED else body
        if stream is None:
            self.acknowledge_received_data(size, stream_id)
            return
        stream.in_window -= size
        if stream.in_window < 0:
            raise FlowControlError("the server sends more than the stream's window")
        if not stream.answered:
            raise ProtocolError("data before the response's headers")
        events.append(DataReceived(stream_id=stream_id, data=data, flow_controlled_length=size))
        if flags & _END_STREAM:
            self._end(stream_id, events)

    def _headers(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        self._known(stream_id)
        block = _without_padding(body) if flags & _PADDED else body
        if flags & _HAS_PRIORITY:
            if len(block) < _PRIORITY_SIZE:
                raise FrameDataMissingError("a HEADERS frame without its priority")
            block = block[_PRIORITY_SIZE:]
        if flags & _END_HEADERS:
            self._header_block(flags, stream_id, block, events)
        else:
            self._partial = _Partial(stream_id, flags, block)

    def _continuation(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        partial = self._partial
        if partial is None or partial.stream_id != stream_id:
            raise ProtocolError("a CONTINUATION of nothing")
        partial.block += body
        if len(partial.block) > _MAX_HEADER_BLOCK:
            raise ProtocolError("a header block of more than 64 KiB")
        if flags & _END_HEADERS:
            self._partial = None
            self._header_block(partial.flags, stream_id, partial.block, events)

    def _header_block(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        headers = self._read_block(block)
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if stream.answered:
            if not flags & _END_STREAM:
                raise ProtocolError("trailers that do not end the stream")
            events.append(TrailersReceived(stream_id=stream_id, headers=_as_h2(headers)))
        else:
            status = next((value for name, value in headers if name == ":status"), "")
            if status.startswith("1"):
                raise NotUnderstood("an informational response")
            stream.answered = True
            events.append(ResponseReceived(stream_id=stream_id, headers=_as_h2(headers)))
        if flags & _END_STREAM:
            self._end(stream_id, events)

    def _read_block(self, block: bytes) -> Headers:
        known = self._read_blocks.get(block)
        if known is not None:
            return known
        try:
            decoded = self._decoder.decode(block, raw=True)
            headers = [(bytes(n).decode("ascii"), bytes(v).decode("ascii")) for n, v in decoded]
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ProtocolError("a header block that can't be read") from error
        if self._may_be_remembered(block):
            self._read_blocks[block] = headers
        return headers

    def _may_be_remembered(self, block: bytes) -> bool:
        # A block that begins with a change of the table's size must be decoded each time.
        changes_size = block[:1] and block[0] >> 5 == 1
        return (
            self._blocks_are_stateless
            and not changes_size
            and not self._decoder.header_table.dynamic_entries
            and len(self._read_blocks) < _REMEMBERED_BLOCKS
        )

    def _priority(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if not stream_id or len(body) != _PRIORITY_SIZE:
            raise ProtocolError("a bad PRIORITY frame")

    def _rst_stream(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if len(body) != _U32.size:
            raise ProtocolError("a bad RST_STREAM frame")
        if self._known(stream_id) is not None:
            del self.streams[stream_id]
            code = _error_code(_U32.unpack(body)[0])
            events.append(StreamReset(stream_id=stream_id, error_code=code, remote_reset=True))

    def _settings(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if stream_id or len(body) % _SETTING.size or (flags & _ACK and body):
            raise ProtocolError("a bad SETTINGS frame")
        if flags & _ACK:
            self._settings_confirmed(events)
            return
        changed: dict[Any, ChangedSetting] = {}
        for code, value in _SETTING.iter_unpack(body):
            self._apply_setting(code, value, changed)
        self._out.append(_frame(_SETTINGS, _ACK, 0))
        event = RemoteSettingsChanged()
        event.changed_settings = changed
        events.append(event)

    def _settings_confirmed(self, events: list[Event]) -> None:
        if not self._settings_unconfirmed:
            raise ProtocolError("settings confirmed that were not sent")
        self._settings_unconfirmed -= 1
        if not self._blocks_are_stateless:
            self._blocks_are_stateless = True
            self._decoder.max_allowed_table_size = 0
        events.append(SettingsAcknowledged())

    def _apply_setting(self, code: int, value: int, changed: dict[Any, ChangedSetting]) -> None:
        if code == SettingCodes.MAX_CONCURRENT_STREAMS:
            old, self._max_streams = self._max_streams, value
        elif code == SettingCodes.INITIAL_WINDOW_SIZE:
            old = self._initial_out_window
            self._resize_windows(value)
        elif code == SettingCodes.MAX_FRAME_SIZE:
            if not _FRAME_SIZE <= value <= _MAX_FRAME_SIZE:
                raise ProtocolError(f"a frame size of {value}")
            old, self.max_outbound_frame_size = self.max_outbound_frame_size, value
        elif code == SettingCodes.ENABLE_PUSH and value:
            raise ProtocolError("a server that takes pushes")
        else:
            return
        setting = SettingCodes(code)
        changed[setting] = ChangedSetting(setting, old, value)

    def _resize_windows(self, value: int) -> None:
        if value > _MAX_WINDOW:
            raise FlowControlError(f"a window of {value}")
        delta, self._initial_out_window = value - self._initial_out_window, value
        for stream in self.streams.values():
            stream.out_window += delta
            if stream.out_window > _MAX_WINDOW:
                raise FlowControlError("a window that is too large")

    def _push_promise(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        raise ProtocolError("a push, although pushes are off")

    def _ping(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if stream_id or len(body) != _PING_SIZE:
            raise ProtocolError("a bad PING frame")
        if flags & _ACK:
            events.append(PingAckReceived(ping_data=body))
        else:
            self._out.append(_frame(_PING, _ACK, 0, body))
            events.append(PingReceived(ping_data=body))

    def _goaway(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if stream_id or len(body) < 2 * _U32.size:
            raise ProtocolError("a bad GOAWAY frame")
        last, code = struct.unpack_from(">II", body)
        event = ConnectionTerminated()
        event.last_stream_id = last & _MAX_STREAM_ID
        event.error_code = _error_code(code)
        event.additional_data = body[8:] or None
        self.state_machine.state = ConnectionState.CLOSED
        events.append(event)

    def _window_update(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        if len(body) != _U32.size:
            raise ProtocolError("a bad WINDOW_UPDATE frame")
        delta = _U32.unpack(body)[0] & _MAX_WINDOW
        if not delta:
            raise ProtocolError("a WINDOW_UPDATE of 0")
        if not stream_id:
            self._out_window += delta
            if self._out_window > _MAX_WINDOW:
                raise FlowControlError("a window that is too large")
        else:
            stream = self._known(stream_id)
            if stream is None:
                return
            stream.out_window += delta
            if stream.out_window > _MAX_WINDOW:
                raise FlowControlError("a window that is too large")
        events.append(WindowUpdated(stream_id=stream_id, delta=delta))

    def _known(self, stream_id: int) -> _Stream | None:
        """The stream; None when it was closed lately. Raises for one that never was."""
        if not stream_id or stream_id >= self._next_stream_id or not stream_id % 2:
            raise ProtocolError(f"a frame for stream {stream_id}, which never was")
        return self.streams.get(stream_id)

    def _end(self, stream_id: int, events: list[Event]) -> None:
        events.append(StreamEnded(stream_id=stream_id))
        # Where our half is still open, nobody wants to hear the rest of it.
        stream = self.streams.pop(stream_id)
        if not stream.local_ended:
            self._out.append(_frame(_RST_STREAM, 0, stream_id, _U32.pack(ErrorCodes.CANCEL)))


def _without_padding(body: bytes) -> bytes:
    if not body or body[0] >= len(body):
        raise ProtocolError("padding that is longer than its frame")
    return body[1 : len(body) - body[0]]


def _as_h2(headers: Headers) -> Any:
    # h2 declares header objects of its own, and gives tuples of text all the same.
    return headers
