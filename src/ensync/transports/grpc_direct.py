"""Calls and streams straight on grpclib's connection, without a task for each.

grpclib's connection hands what arrives on a stream to whatever is registered for
the stream's number, by a handful of attributes. Here small objects of our own are
registered, which answer a call or deliver a message in the same turn of the loop.

This leans on names that grpclib does not document; all of them are in this module
and in ``grpc_protocol``. ``grpc_plain`` does the same by the public API alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_grpc_message
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError as H2Error
from h2.exceptions import StreamClosedError

from ensync.address import Address
from ensync.transports.grpc_protocol import STREAM_WINDOW, ClientProtocol
from ensync.transports.grpc_wire import (
    ServerStream,
    StreamResult,
    UnaryCall,
    UnaryResult,
    Wire,
    WireOwner,
)
from ensync.transports.message_codec import decoder, encoder

__all__ = ["DirectWire"]

_PREFIX = 5  # bytes: one for compression, four for the length of the message
_MAX_MESSAGE = 16 << 20
# Of a reply that is longer than this, the engine is told that more may come.
_LONG_REPLY = STREAM_WINDOW // 4

Headers = list[tuple[str, str]]


class DirectWire(Wire):
    """Carries over a protocol whose connection is there already."""

    def __init__(self, owner: WireOwner, protocol: ClientProtocol, address: Address) -> None:
        self.owner = owner
        self._connection = protocol.connection
        self._h2: Any = protocol.h2
        self._exchanges: dict[int, Any] = protocol.exchanges
        self._scheme = "https" if address.tls else "http"
        self._authority = address.authority
        self._headers: dict[str, Headers] = {}

    def writable(self) -> bool:
        return self._connection.write_ready.is_set()

    def start_call(self, call: UnaryCall) -> None:
        exchange = _CallExchange(self, call)
        call.undo = exchange.reset
        self._open(exchange, call.path, encoder(type(call.message))(call.message))

    def start_stream(self, stream: ServerStream) -> None:
        exchange = _StreamExchange(self, stream)
        stream.undo = exchange.reset
        stream.reader = exchange
        self._open(exchange, stream.path, encoder(type(stream.message))(stream.message))

    def _open(self, exchange: _Exchange, path: str, message: bytes) -> None:
        try:
            exchange.id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(exchange.id, self._headers.get(path) or self._headers_of(path))
        except H2Error as error:
            exchange.fail(error)
            return
        self._exchanges[exchange.id] = exchange
        exchange.unsent = b"\0" + len(message).to_bytes(4, "big") + message
        self.send_more(exchange)

    def _headers_of(self, path: str) -> Headers:
        headers = self._headers[path] = [
            (":method", "POST"),
            (":scheme", self._scheme),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "ensync-python"),
        ]
        return headers

    def send_more(self, exchange: _Exchange) -> None:
        """Sends as much of a message as the engine's windows allow."""
        try:
            while exchange.unsent:
                room = min(
                    self._h2.local_flow_control_window(exchange.id),
                    self._h2.max_outbound_frame_size,
                )
                if room <= 0:
                    break
                chunk, exchange.unsent = exchange.unsent[:room], exchange.unsent[room:]
                if not exchange.unsent:
                    exchange.leaves()
                self._h2.send_data(exchange.id, chunk, end_stream=not exchange.unsent)
        except H2Error as error:
            self.forget(exchange)
            exchange.fail(error)
        self._connection.flush()

    def credit(self, exchange: _Exchange, size: int) -> None:
        """Lets the engine send as much more."""
        if size and not self._connection.is_closing():
            self._h2.acknowledge_received_data(size, exchange.id)
            self._connection.flush()

    def forget(self, exchange: _Exchange) -> None:
        self._exchanges.pop(exchange.id, None)

    def reset(self, exchange: _Exchange) -> None:
        """Tells the engine that nobody waits any more."""
        if self._exchanges.pop(exchange.id, None) is None or self._connection.is_closing():
            return
        try:
            self._h2.reset_stream(exchange.id, error_code=ErrorCodes.CANCEL)
        except StreamClosedError:
            # The engine has ended it meanwhile, which is as good.
            return
        self._connection.flush()


class _Nobody:
    """For what grpclib announces and nobody here waits for."""

    def set(self) -> None:
        """Does nothing."""


_NOBODY = _Nobody()


class _Exchange:
    """What grpclib's connection takes for one of its streams."""

    __slots__ = ("data_received", "headers", "id", "trailers", "unsent", "wire")

    trailers_received = _NOBODY

    def __init__(self, wire: DirectWire) -> None:
        self.id = 0
        self.wire = wire
        self.unsent = b""
        self.headers: Headers | None = None
        self.trailers: Headers | None = None
        self.data_received = 0

    # Named by grpclib

    @property
    def buffer(self) -> _Exchange:
        return self

    @property
    def window_updated(self) -> _Exchange:
        return self

    @property
    def headers_received(self) -> Any:
        return _NOBODY

    def set(self) -> None:
        """The window is larger."""
        if self.unsent:
            self.wire.send_more(self)

    def add(self, data: bytes, ack_size: int) -> None:
        """A frame of data arrived."""
        raise NotImplementedError

    def __ended__(self) -> None:
        raise NotImplementedError

    def __terminated__(self, reason: str) -> None:
        self.wire.forget(self)
        self.fail(_Terminated(reason))

    # Named by us

    def leaves(self) -> None:
        """The last byte of the request is about to be written."""

    def fail(self, error: Exception) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        self.wire.reset(self)

    def status(self) -> GRPCError | None:
        """What the engine's trailers say; None for OK.

        Raises:
            _NotGrpc: They are none.
        """
        headers = dict(self.headers or ())
        if headers.get(":status") != "200":
            raise _NotGrpc(f"the HTTP status {headers.get(':status')}")
        if not headers.get("content-type", "").startswith("application/grpc"):
            raise _NotGrpc(f"the content type {headers.get('content-type')!r}")
        trailers = dict(self.trailers or ()) or headers
        code = trailers.get("grpc-status")
        if code == "0":
            return None
        try:
            status = Status(int(code or ""))
        except ValueError:
            raise _NotGrpc(f"the gRPC status {code!r}") from None
        return GRPCError(status, decode_grpc_message(trailers.get("grpc-message", "")) or None)


class _Terminated(Exception):
    """The stream was reset."""


class _NotGrpc(Exception):
    """The answer is HTTP/2, and no gRPC."""


class _CallExchange(_Exchange):
    __slots__ = ("_call", "_chunks", "_owed", "_size")

    def __init__(self, wire: DirectWire, call: UnaryCall) -> None:
        super().__init__(wire)
        self._call = call
        self._chunks: list[bytes] = []
        self._size = 0
        self._owed = 0

    def leaves(self) -> None:
        self._call.leaves()

    def add(self, data: bytes, ack_size: int) -> None:
        self._chunks.append(data)
        self._size += len(data)
        self._owed += ack_size
        if self._size > _MAX_MESSAGE:
            self.reset()
            self._call.finish(self.wire.owner.wrong("sent a reply that is far too large"))
        elif self._owed > _LONG_REPLY:
            owed, self._owed = self._owed, 0
            self.wire.credit(self, owed)

    def reset(self) -> None:
        super().reset()
        self.wire.credit(self, self._owed)

    def __ended__(self) -> None:
        self.wire.forget(self)
        self.wire.credit(self, self._owed)
        self._call.finish(self._result())

    def _result(self) -> UnaryResult:
        owner = self.wire.owner
        try:
            refusal = self.status()
            if refusal is not None:
                return refusal
            return decoder(self._call.reply_type)(_only_message(b"".join(self._chunks)))
        except Exception as error:  # noqa: BLE001 - whatever the bytes make the codec raise
            return owner.translate(error)

    def fail(self, error: Exception) -> None:
        self._call.finish(self.wire.owner.translate(error))


def _only_message(body: bytes) -> bytes:
    if len(body) < _PREFIX or body[0] or int.from_bytes(body[1:_PREFIX], "big") != len(body) - 5:
        raise _NotGrpc("a reply that is not one uncompressed message")
    return body[_PREFIX:]


class _StreamExchange(_Exchange):
    __slots__ = ("_buffer", "_credited", "_decode", "_end", "_held", "_is_reading", "_stream")

    def __init__(self, wire: DirectWire, stream: ServerStream) -> None:
        super().__init__(wire)
        self._stream = stream
        self._decode = decoder(stream.message_type)
        self._buffer = bytearray()
        self._credited = 0  # bytes of the buffer that the engine may replace already
        self._held = False
        self._is_reading = False
        self._end: Callable[[], None] | None = None

    @property
    def headers_received(self) -> Any:
        return _Opened(self._stream)

    def add(self, data: bytes, ack_size: int) -> None:
        self._buffer += data
        self.wire.credit(self, ack_size - len(data))
        self._read()

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        if not self._is_reading:
            self._read()
        if not self._held and self._end is not None:
            end, self._end = self._end, None
            end()

    def reset(self) -> None:
        super().reset()
        unread, self._buffer = len(self._buffer) - self._credited, bytearray()
        self._credited = 0
        self.wire.credit(self, unread)

    def _read(self) -> None:
        buffer, position = self._buffer, 0
        self._is_reading = True
        try:
            while not self._held and not self._stream.ended:
                stop = _end_of_message(buffer, position)
                if stop is None:
                    break
                message = self._decode(bytes(buffer[position + _PREFIX : stop]))
                position = stop
                self._stream.on_message(message)
        except Exception as error:  # noqa: BLE001 - whatever the bytes make the codec raise
            self.reset()
            self.fail(error)
            return
        finally:
            self._is_reading = False
        if self._stream.ended:
            return
        del buffer[:position]
        self._credit_read(position)

    def _credit_read(self, size: int) -> None:
        # A message that has begun is credited before it is complete: it may be larger
        # than the window. A held stream may only fill the window.
        settled = self._credited
        self._credited = max(0, settled - size) if self._held else len(self._buffer)
        self.wire.credit(self, size + self._credited - settled)

    def __ended__(self) -> None:
        self.wire.forget(self)
        if self._held:
            # What was held back is delivered before the end is told.
            self._end = self._finish
        else:
            self._finish()

    def _finish(self) -> None:
        self._stream.finish(self._result())

    def _result(self) -> StreamResult:
        try:
            return self.status()
        except _NotGrpc as error:
            return self.wire.owner.translate(error)

    def fail(self, error: Exception) -> None:
        self._stream.finish(self.wire.owner.translate(error))


class _Opened:
    __slots__ = ("_stream",)

    def __init__(self, stream: ServerStream) -> None:
        self._stream = stream

    def set(self) -> None:
        """The response headers arrived."""
        self._stream.on_open()


def _end_of_message(buffer: bytearray, position: int) -> int | None:
    start = position + _PREFIX
    if len(buffer) < start:
        return None
    if buffer[position]:
        raise _NotGrpc("a compressed message")
    size = int.from_bytes(buffer[position + 1 : start], "big")
    if size > _MAX_MESSAGE:
        raise _NotGrpc(f"a message of {size} bytes")
    return start + size if len(buffer) >= start + size else None
