"""The sending half of the lean HTTP/2 connection, and what both halves share."""

from __future__ import annotations

from collections.abc import Mapping

from h2.errors import ErrorCodes
from h2.exceptions import (
    FlowControlError,
    FrameTooLargeError,
    NoAvailableStreamIDError,
    ProtocolError,
    StreamClosedError,
    TooManyStreamsError,
)
from h2.settings import SettingCodes

from ensync.transports.header_blocks import NO_LENGTH, Headers, RememberingEncoder
from ensync.transports.http2_frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_STREAM_ID,
    MIN_FRAME_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    number_frame,
)

__all__ = ["LeanSender", "LeanStream"]


class LeanStream:
    """One request, until it is answered or given up."""

    __slots__ = ("answered", "in_window", "local_ended", "missing", "out_window", "owed")

    def __init__(self, out_window: int, in_window: int, local_ended: bool) -> None:
        self.out_window = out_window
        self.in_window = in_window
        self.owed = 0  # bytes that may be sent again, and were not said to be yet
        self.missing = NO_LENGTH  # bytes of a body whose length was promised
        self.local_ended = local_ended
        self.answered = False


class LeanSender:
    """Writes frames, and counts what may be sent and what may be received.

    The methods are those of ``h2.connection.H2Connection``.
    """

    def __init__(self) -> None:
        self.streams: dict[int, LeanStream] = {}
        self.max_outbound_frame_size = MIN_FRAME_SIZE
        self._out: list[bytes] = []
        self._next_stream_id = 1
        self.is_closed = False
        self._out_window = DEFAULT_WINDOW
        self._initial_out_window = DEFAULT_WINDOW
        self._in_window: int = DEFAULT_WINDOW
        self._max_in_window: int = DEFAULT_WINDOW
        self._initial_in_window = DEFAULT_WINDOW
        self._owed: int = 0
        self._max_streams = MAX_STREAM_ID
        self._encoder = RememberingEncoder()
        self._settings_unconfirmed = 0

    def initiate_connection(self) -> None:
        self._out.append(PREFACE)
        self._send_settings({SettingCodes.ENABLE_PUSH: 0})

    def update_settings(self, settings: Mapping[SettingCodes, int]) -> None:
        self._send_settings(settings)
        # At once, since whoever sees a later stream has seen this before.
        self._initial_in_window = settings.get(
            SettingCodes.INITIAL_WINDOW_SIZE, self._initial_in_window
        )

    def _send_settings(self, settings: Mapping[SettingCodes, int]) -> None:
        body = b"".join(SETTING.pack(int(code), value) for code, value in settings.items())
        self._out.append(frame(SETTINGS, 0, 0, body))
        self._settings_unconfirmed += 1

    def increment_flow_control_window(self, increment: int) -> None:
        self._in_window += increment
        self._max_in_window = max(self._in_window, self._max_in_window)
        self._out.append(number_frame(WINDOW_UPDATE, 0, increment))

    def get_next_available_stream_id(self) -> int:
        if self._next_stream_id > MAX_STREAM_ID:
            raise NoAvailableStreamIDError("this connection has used up its stream numbers")
        return self._next_stream_id

    def send_headers(self, stream_id: int, headers: Headers, end_stream: bool = False) -> None:
        if self.is_closed:
            raise ProtocolError("the server takes no more requests on this connection")
        if len(self.streams) >= self._max_streams:
            raise TooManyStreamsError(f"the server takes {self._max_streams} streams at a time")
        self._next_stream_id = stream_id + 2
        self.streams[stream_id] = LeanStream(
            self._initial_out_window, self._initial_in_window, end_stream
        )
        block = self._encoder.encode(headers)
        flags = END_STREAM if end_stream else 0
        limit = self.max_outbound_frame_size
        if len(block) <= limit:
            self._out.append(frame(HEADERS, flags | END_HEADERS, stream_id, block))
            return
        self._out.append(frame(HEADERS, flags, stream_id, block[:limit]))
        for start in range(limit, len(block), limit):
            part = block[start : start + limit]
            last = END_HEADERS if start + limit >= len(block) else 0
            self._out.append(frame(CONTINUATION, last, stream_id, part))

    def send_request(self, headers: Headers, body: bytes) -> int:
        """Sends a whole request where its headers and its body can go at once.

        Returns:
            The number of its stream; 0 if it can't be sent as a whole now. Then nothing was.
        """
        size, stream_id = len(body), self._next_stream_id
        if (
            self.is_closed
            or len(self.streams) >= self._max_streams
            or stream_id > MAX_STREAM_ID
            or size > min(self._out_window, self._initial_out_window, self.max_outbound_frame_size)
        ):
            return 0
        self.send_headers(stream_id, headers)
        self.send_data(stream_id, body, end_stream=True)
        return stream_id

    def local_flow_control_window(self, stream_id: int) -> int:
        return min(self._stream(stream_id).out_window, self._out_window)

    def send_data(self, stream_id: int, data: bytes | memoryview, end_stream: bool = False) -> None:
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
        self._out.append(frame(DATA, END_STREAM if end_stream else 0, stream_id, data))
        stream.local_ended = end_stream

    def ping(self, opaque_data: bytes) -> None:
        self._out.append(frame(PING, 0, 0, opaque_data))

    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None:
        self._stream(stream_id)
        del self.streams[stream_id]
        self._out.append(number_frame(RST_STREAM, stream_id, int(error_code)))

    def _stream(self, stream_id: int) -> LeanStream:
        stream = self.streams.get(stream_id)
        if stream is None:
            raise StreamClosedError(stream_id)
        return stream

    def acknowledge_received_data(self, size: int, stream_id: int) -> None:
        self._owed += size
        if self._owed * 2 >= self._max_in_window:
            self._out.append(number_frame(WINDOW_UPDATE, 0, self._owed))
            self._in_window += self._owed
            self._owed = 0
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        stream.owed += size
        if stream.owed * 2 >= self._initial_in_window:
            self._out.append(number_frame(WINDOW_UPDATE, stream_id, stream.owed))
            stream.in_window += stream.owed
            stream.owed = 0

    def data_to_send(self) -> bytes:
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data
