"""Calls and streams straight on grpclib's connection, without a task for each.

In place of grpclib's Stream objects, small objects of our own are registered for the
streams' numbers, which answer a call or deliver a message in the same turn of the loop.
What grpclib tells of a stream beyond its frames, it tells them by a few attributes.

This leans on names that grpclib does not document; all of them are in this module
and in ``grpc_protocol``. ``grpc_plain`` does the same by the public API alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    ResponseReceived,
    StreamEnded,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError as H2Error
from h2.exceptions import StreamClosedError

from ensync.address import Address
from ensync.transports.grpc_framing import (
    MAX_MESSAGE,
    PREFIX,
    UNCOMPRESSED,
    Framing,
    Headers,
    NotGrpc,
    decompressed,
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

# What may come in place of less than this, the engine is told later: a frame for each event
# would cost more than the event. It must stay well below the window, or the engine would wait.
WORTH_A_CREDIT = STREAM_WINDOW // 4


class DirectWire(Wire):
    """Carries over a protocol whose connection is there already.

    Attributes:
        last_flag: The last of the flags that a message of the engine's may have.
    """

    last_flag = UNCOMPRESSED

    def __init__(self, owner: WireOwner, protocol: ClientProtocol, address: Address) -> None:
        self.owner = owner
        self._protocol = protocol
        self._connection = protocol.connection
        self._h2: Any = protocol.h2
        self._send_request: Callable[[Headers, bytes], int] | None
        self._send_request = getattr(protocol.h2, "send_request", None)
        self._exchanges: dict[int, Any] = protocol.exchanges
        self.unpaid = 0  # bytes of streams that are over, to be credited
        protocol.on_refused = self._refused
        protocol.take_over(
            {
                ResponseReceived: self._response_received,
                DataReceived: self._data_received,
                TrailersReceived: self._trailers_received,
                StreamEnded: self._stream_ended,
                WindowUpdated: self._window_updated,
            }
        )
        self._scheme = "https" if address.tls else "http"
        self._authority = address.authority
        self._headers: dict[str, Headers] = {}
        self._coding_headers: Headers = []
        self._framed: Framing = framed
        self._good: tuple[Headers | None, Headers | None] = (None, None)

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
        headers = self._headers.get(path) or self._headers_of(path)
        body = self._framed(message)
        if self._send_request is not None:
            number = self._send_request(headers, body)
            if number:
                exchange.id = number
                self._exchanges[number] = exchange
                exchange.leaves()
                self._protocol.has_more(len(body))
                return
        try:
            exchange.id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(exchange.id, headers)
        except H2Error as error:
            exchange.fail(error)
            return
        self._exchanges[exchange.id] = exchange
        exchange.unsent = body
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
            *self._coding_headers,
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

    def credit(self, number: int, size: int) -> None:
        """Lets the engine send as much more, on a stream and in all."""
        if size and not self._connection.is_closing():
            self._h2.acknowledge_received_data(size, number)
            self._connection.flush()

    def credit_ended(self, number: int, size: int) -> None:
        """The same of a stream that is over: in all, as soon as it is worth a frame."""
        self.unpaid += size
        if self.unpaid > WORTH_A_CREDIT:
            unpaid, self.unpaid = self.unpaid, 0
            self.credit(number, unpaid)

    # What arrives

    def _response_received(self, event: ResponseReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:
            exchange.headers = event.headers
            exchange.opened()

    def _data_received(self, event: DataReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            self.credit_ended(event.stream_id, event.flow_controlled_length)
        else:
            exchange.add(event.data, event.flow_controlled_length)

    def _trailers_received(self, event: TrailersReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:
            exchange.trailers = event.headers

    def _stream_ended(self, event: StreamEnded) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            return
        if exchange.unsent:
            # The engine has answered before it heard all, and will not listen any more.
            self.reset(exchange)
        else:
            del self._exchanges[event.stream_id]
        exchange.ended()

    def _window_updated(self, event: WindowUpdated) -> None:
        if event.stream_id:
            exchange = self._exchanges.get(event.stream_id)
            unsent = [] if exchange is None or not exchange.unsent else [exchange]
        else:
            unsent = [each for each in self._exchanges.values() if each.unsent]
        for exchange in unsent:
            self.send_more(exchange)

    def status_of(self, exchange: _Exchange) -> GRPCError | None:
        """What an answer says in the end; None for OK.

        Raises:
            NotGrpc: It says nothing.
        """
        # Remembered header blocks are the same objects each time.
        headers, trailers = exchange.headers, exchange.trailers
        good_headers, good_trailers = self._good
        if headers is good_headers and trailers is good_trailers and headers is not None:
            return None
        refusal = read_status(headers, trailers)
        if refusal is None:
            self._good = headers, trailers
        return refusal

    # What goes wrong

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


class _Exchange:
    """What grpclib's connection takes for one of its streams."""

    __slots__ = ("headers", "id", "owed", "trailers", "unsent", "wire")

    def __init__(self, wire: DirectWire) -> None:
        self.id = 0
        self.wire = wire
        self.unsent: bytes | memoryview = b""
        self.headers: Headers | None = None
        self.trailers: Headers | None = None
        self.owed = 0

    # Named by grpclib

    @property
    def window_updated(self) -> _Exchange:
        return self

    def set(self) -> None:
        """The window is larger."""
        if self.unsent:
            self.wire.send_more(self)

    def __terminated__(self, reason: str) -> None:
        self.wire.forget(self)
        self.drop()
        self.fail(_Terminated(reason))

    # Named by us

    def opened(self) -> None:
        """The headers of the answer arrived."""

    def add(self, data: bytes, ack_size: int) -> None:
        """A frame of data arrived."""
        raise NotImplementedError

    def ended(self) -> None:
        """All of the answer arrived."""
        raise NotImplementedError

    def owe(self, size: int) -> None:
        """The engine may send as much more; it is told as soon as that is worth a frame."""
        self.owed += size
        if self.owed > WORTH_A_CREDIT:
            owed, self.owed = self.owed, 0
            self.wire.credit(self.id, owed)

    def owe_last(self, size: int) -> None:
        """The same when the stream is over."""
        owed, self.owed = self.owed, 0
        self.wire.credit_ended(self.id, owed + size)

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
    __slots__ = ("_call", "_chunks", "_size")

    def __init__(self, wire: DirectWire, call: UnaryCall) -> None:
        super().__init__(wire)
        self._call = call
        self._chunks: list[bytes] = []
        self._size = 0

    def leaves(self) -> None:
        self._call.leaves()

    def add(self, data: bytes, ack_size: int) -> None:
        self._chunks.append(data)
        self._size += len(data)
        self.owe(ack_size)
        if self._size > MAX_MESSAGE + PREFIX:
            self.reset()
            self._call.finish(self.wire.owner.wrong("sent a reply that is far too large"))

    def drop(self) -> None:
        self._chunks.clear()
        self.owe_last(0)

    def ended(self) -> None:
        self.owe_last(0)
        self._call.finish(self._result())

    def _result(self) -> UnaryResult:
        try:
            refusal = self.wire.status_of(self)
            if refusal is not None:
                return refusal
            body = b"".join(self._chunks)
            message = only_message(body, self.wire.last_flag)
            if body[0]:
                message = decompressed(message, self.headers)
            return decoder(self._call.reply_type)(message)
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

    def opened(self) -> None:
        if is_grpc(self.headers):
            self._stream.on_open()

    def add(self, data: bytes, ack_size: int) -> None:
        self._buffer += data
        if ack_size != len(data):  # there was padding
            self.owe(ack_size - len(data))
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
        self.owe_last(unread)

    def _read(self) -> None:
        buffer, position = self._buffer, 0
        last_flag = self.wire.last_flag
        self._is_reading = True
        try:
            while not self._held and not self._stream.ended:
                stop = end_of_message(buffer, position, last_flag)
                if stop is None:
                    break
                data = bytes(buffer[position + PREFIX : stop])
                if buffer[position]:
                    data = decompressed(data, self.headers)
                message = self._decode(data)
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
        self.owe(size + self._credited - settled)

    def ended(self) -> None:
        if self._held:
            # What was held back is delivered before the end is told.
            self._end = self._finish
        else:
            self._finish()

    def _finish(self) -> None:
        self.owe_last(0)
        self._stream.finish(self._result())

    def _result(self) -> StreamResult:
        owner = self.wire.owner
        try:
            refusal = self.wire.status_of(self)
        except NotGrpc as error:
            return owner.translate(error)
        if refusal is None and self._buffer:
            return owner.translate(NotGrpc("a stream that ends inside a message"))
        return refusal

    def fail(self, error: Exception) -> None:
        self._stream.finish(self.wire.owner.translate(error))
