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

from grpclib.exceptions import StreamTerminatedError
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError as H2Error
from h2.exceptions import StreamClosedError

from ensync.address import Address
from ensync.transports.grpc_framing import (
    MAX_MESSAGE,
    PREFIX,
    Headers,
    NotGrpc,
    end_of_message,
    framed,
    is_grpc,
    only_message,
    read_status,
)
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

# Of a reply that is longer than this, the engine is told that more may come.
_LONG_REPLY = STREAM_WINDOW // 4


class DirectWire(Wire):
    """Carries over a protocol whose connection is there already."""

    def __init__(self, owner: WireOwner, protocol: ClientProtocol, address: Address) -> None:
        self.owner = owner
        self._connection = protocol.connection
        self._h2: Any = protocol.h2
        self._exchanges: dict[int, Any] = protocol.exchanges
        protocol.on_refused = self._refused
        self._scheme = "https" if address.tls else "http"
        self._authority = address.authority
        self._headers: dict[str, Headers] = {}

    def writable(self) -> bool:
        # A GOAWAY may have been read together with what is being told of now.
        return self._connection.write_ready.is_set() and not getattr(self._h2, "is_closed", False)

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
        exchange.unsent = framed(message)
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
        h2 = self._h2
        try:
            while exchange.unsent:
                unsent = exchange.unsent
                room = min(h2.local_flow_control_window(exchange.id), h2.max_outbound_frame_size)
                if room >= len(unsent):
                    exchange.unsent = b""
                    exchange.leaves()
                    h2.send_data(exchange.id, unsent, end_stream=True)
                    break
                if room <= 0:
                    break
                exchange.unsent = memoryview(unsent)[room:]
                h2.send_data(exchange.id, unsent[:room])
        except H2Error:
            # The stream is over, or the connection is: that was read already, together
            # with the larger window, and is told next.
            exchange.unsent = b""
        self._connection.flush()

    def credit(self, exchange: _Exchange, size: int) -> None:
        """Lets the engine send as much more."""
        if size and not self._connection.is_closing():
            self._h2.acknowledge_received_data(size, exchange.id)
            self._connection.flush()

    def _refused(self, number: int) -> None:
        exchange = self._exchanges.get(number)
        if exchange is not None:
            exchange.never_heard()

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
        self.unsent: bytes | memoryview = b""
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
        if self.unsent:
            # The engine has answered before it heard all, and will not listen any more.
            self.wire.reset(self)
        else:
            self.wire.forget(self)

    def __terminated__(self, reason: str) -> None:
        self.wire.forget(self)
        self.drop()
        self.fail(_Terminated(reason))

    # Named by us

    def leaves(self) -> None:
        """The last byte of the request is about to be written."""

    def never_heard(self) -> None:
        """The engine says that it has done nothing about the request."""

    def fail(self, error: Exception) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        self.wire.reset(self)
        self.drop()

    def drop(self) -> None:
        """What came and was not read is not read any more: the engine may replace it."""
        raise NotImplementedError


class _Terminated(StreamTerminatedError):
    """The stream was reset."""


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
        if self._size > MAX_MESSAGE + PREFIX:
            self.reset()
            self._call.finish(self.wire.owner.wrong("sent a reply that is far too large"))
        elif self._owed > _LONG_REPLY:
            self._credit_owed()

    def drop(self) -> None:
        self._chunks.clear()
        self._credit_owed()

    def _credit_owed(self) -> None:
        owed, self._owed = self._owed, 0
        self.wire.credit(self, owed)

    def __ended__(self) -> None:
        super().__ended__()
        self._credit_owed()
        self._call.finish(self._result())

    def _result(self) -> UnaryResult:
        try:
            refusal = read_status(self.headers, self.trailers)
            if refusal is not None:
                return refusal
            return decoder(self._call.reply_type)(only_message(b"".join(self._chunks)))
        except Exception as error:  # noqa: BLE001 - whatever the bytes make the codec raise
            return self.wire.owner.translate(error)

    def never_heard(self) -> None:
        self._call.never_heard()

    def fail(self, error: Exception) -> None:
        self._call.finish(self.wire.owner.translate(error))


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
        return _Opened(self, self._stream)

    def add(self, data: bytes, ack_size: int) -> None:
        self._buffer += data
        self.wire.credit(self, ack_size - len(data))
        self._read()

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        if self._is_reading:
            return  # whoever reads goes on
        self._read()
        if not self._held and self._end is not None:
            end, self._end = self._end, None
            end()

    def drop(self) -> None:
        unread, self._buffer = len(self._buffer) - self._credited, bytearray()
        self._credited = 0
        self.wire.credit(self, unread)

    def _read(self) -> None:
        buffer, position = self._buffer, 0
        self._is_reading = True
        try:
            while not self._held and not self._stream.ended:
                stop = end_of_message(buffer, position)
                if stop is None:
                    break
                message = self._decode(bytes(buffer[position + PREFIX : stop]))
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
        super().__ended__()
        if self._held:
            # What was held back is delivered before the end is told.
            self._end = self._finish
        else:
            self._finish()

    def _finish(self) -> None:
        self._stream.finish(self._result())

    def _result(self) -> StreamResult:
        owner = self.wire.owner
        try:
            refusal = read_status(self.headers, self.trailers)
        except NotGrpc as error:
            return owner.translate(error)
        if refusal is None and self._buffer:
            return owner.translate(NotGrpc("a stream that ends inside a message"))
        return refusal

    def fail(self, error: Exception) -> None:
        self._stream.finish(self.wire.owner.translate(error))


class _Opened:
    __slots__ = ("_exchange", "_stream")

    def __init__(self, exchange: _Exchange, stream: ServerStream) -> None:
        self._exchange = exchange
        self._stream = stream

    def set(self) -> None:
        """The response headers arrived."""
        if is_grpc(self._exchange.headers):
            self._stream.on_open()
