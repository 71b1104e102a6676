"""The lean HTTP/2 connection beside h2's, both given the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    AlternativeServiceAvailable,
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes
from hyperframe.frame import ContinuationFrame, HeadersFrame

from ensync.transports.lean_http2 import LeanConnection

__all__ = [
    "REQUEST",
    "RESPONSE",
    "STREAM_WINDOW",
    "TRAILERS",
    "RawFrame",
    "StubbornEncoder",
    "accepted",
    "connected_pair",
    "cut",
    "frames_of",
    "new_h2",
    "new_lean",
    "new_server",
    "raw_frame",
    "reframed",
    "seen",
]

Headers: TypeAlias = list[tuple[str, str]]
Seen: TypeAlias = tuple[Any, ...]

STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = (1 << 31) - 1

REQUEST: Headers = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/ensync.EnSyncService/PublishMessage"),
    (":authority", "127.0.0.1:50051"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "ensync-python"),
]
RESPONSE: Headers = [(":status", "200"), ("content-type", "application/grpc+proto")]
TRAILERS: Headers = [("grpc-status", "0")]

# Of these, the client's settings are all that the program looks at.
_SETTINGS_READ = (
    SettingCodes.MAX_CONCURRENT_STREAMS,
    SettingCodes.INITIAL_WINDOW_SIZE,
    SettingCodes.MAX_FRAME_SIZE,
)
_NOT_SHOWN = (
    AlternativeServiceAvailable,
    InformationalResponseReceived,
    PriorityUpdated,
    UnknownFrameReceived,
)


class StubbornEncoder(hpack.Encoder):
    """Of a server that keeps its header table, whatever the client would like."""

    def __init__(self) -> None:
        self._is_kept = False
        super().__init__()
        self._is_kept = True

    @property
    def header_table_size(self) -> int:
        return super().header_table_size

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        if not self._is_kept:
            hpack.Encoder.header_table_size.fset(self, value)  # type: ignore[attr-defined]

    def resize(self, value: int) -> None:
        hpack.Encoder.header_table_size.fset(self, value)  # type: ignore[attr-defined]


def new_lean() -> LeanConnection:
    lean = LeanConnection()
    _begin(lean)
    return lean


def new_h2() -> H2Connection:
    """As grpclib makes it for the client."""
    config = H2Configuration(
        client_side=True,
        header_encoding="ascii",
        validate_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_inbound_headers=False,
        normalize_outbound_headers=False,
    )
    h2 = H2Connection(config)
    _begin(h2)
    return h2


def _begin(client: Any) -> None:
    client.initiate_connection()
    client.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW})


def new_server(*, keeps_table: bool = False) -> H2Connection:
    config = H2Configuration(client_side=False, header_encoding="utf-8")
    server = H2Connection(config)
    if keeps_table:
        server.encoder = StubbornEncoder()
    server.initiate_connection()
    return server


class Connected(NamedTuple):
    lean: LeanConnection
    h2: H2Connection
    server: H2Connection

    @property
    def clients(self) -> tuple[Any, Any]:
        return self.lean, self.h2

    def open_stream(self, *, end: bool = True) -> int:
        """A request from both clients, of which the server hears the lean one's."""
        number = self.lean.get_next_available_stream_id()
        for client in self.clients:
            client.send_headers(number, REQUEST, end_stream=end)
        self.to_server()
        return number

    def to_server(self) -> None:
        self.server.receive_data(self.lean.data_to_send())
        self.h2.data_to_send()

    def to_clients(self) -> tuple[list[Seen], list[Seen]]:
        data = self.server.data_to_send()
        return seen(self.lean.receive_data(data)), seen(self.h2.receive_data(data))


def connected_pair() -> Connected:
    """Both greeted by one server, which has confirmed their settings."""
    pair = Connected(new_lean(), new_h2(), new_server())
    pair.to_server()
    pair.to_clients()
    pair.to_server()
    return pair


def accepted(events: Iterable[object]) -> list[Seen] | None:
    """What is seen of events; None where grpclib has no answer to one of them."""
    events = list(events)
    known = (*_NOT_SHOWN, *_SHOWN)
    return seen(events) if all(isinstance(event, known) for event in events) else None


def seen(events: Iterable[Any]) -> list[Seen]:
    """What the program reads of events."""
    return [_SHOWN[type(event)](event) for event in events if not isinstance(event, _NOT_SHOWN)]


_SHOWN: dict[type[Any], Callable[[Any], Seen]] = {
    ResponseReceived: lambda e: ("response", e.stream_id, [(n, v) for n, v in e.headers]),
    TrailersReceived: lambda e: ("trailers", e.stream_id, [(n, v) for n, v in e.headers]),
    DataReceived: lambda e: ("data", e.stream_id, e.data, e.flow_controlled_length),
    StreamEnded: lambda e: ("ended", e.stream_id),
    StreamReset: lambda e: ("reset", e.stream_id, e.error_code, e.remote_reset),
    WindowUpdated: lambda e: ("window", e.stream_id, e.delta),
    SettingsAcknowledged: lambda _: ("confirmed",),
    PingReceived: lambda e: ("ping", e.ping_data),
    PingAckReceived: lambda e: ("pong", e.ping_data),
    RemoteSettingsChanged: lambda e: ("settings", _settings(e)),
    ConnectionTerminated: lambda e: (
        "goaway",
        e.error_code,
        e.last_stream_id & 0x7FFFFFFF,
        e.additional_data,
    ),
}


def _settings(event: RemoteSettingsChanged) -> dict[int, int]:
    changed = event.changed_settings
    return {int(c): changed[c].new_value for c in _SETTINGS_READ if c in changed}


# Bytes


class RawFrame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    body: bytes

    @property
    def data(self) -> bytes:
        return raw_frame(*self)


def raw_frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream_id) + body


def frames_of(data: bytes) -> Iterator[RawFrame]:
    """Whole frames, one after the other."""
    position = 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 3], "big")
        kind, flags, stream_id = struct.unpack_from(">BBI", data, position + 3)
        stop = position + 9 + size
        yield RawFrame(kind, flags, stream_id, data[position + 9 : stop])
        position = stop


def cut(data: bytes, places: Iterable[int]) -> Iterator[bytes]:
    """The data in parts, cut at some places."""
    start = 0
    for place in sorted({place % (len(data) + 1) for place in places}):
        yield data[start:place]
        start = place
    yield data[start:]


def reframed(frame: RawFrame, size: int, padding: int | None, priority: bool) -> bytes:
    """A HEADERS frame as several, padded, and with a priority that nobody asked for."""
    block = frame.body
    first = HeadersFrame(frame.stream_id, block[:size])
    if frame.flags & 1:
        first.flags.add("END_STREAM")
    if padding is not None and block[:size]:
        first.flags.add("PADDED")
        first.pad_length = padding
    if priority:
        first.flags.add("PRIORITY")
        first.depends_on = frame.stream_id + 2
    rest = [ContinuationFrame(frame.stream_id, block[i : i + size]) for i in _starts(block, size)]
    (rest[-1] if rest else first).flags.add("END_HEADERS")
    return b"".join(each.serialize() for each in (first, *rest))


def _starts(block: bytes, size: int) -> range:
    return range(size, len(block), size)
