"""A client's connection without a socket, and an h2 server that a test plays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamReset

from ensync.address import parse_address
from ensync.proto.ensync import EventStreamResponse, PublishEventRequest, PublishEventResponse
from ensync.transports.grpc_compressing import CompressingWire
from ensync.transports.grpc_connection import GrpcConnection
from ensync.transports.grpc_direct import DirectWire
from ensync.transports.grpc_protocol import ClientProtocol
from ensync.transports.grpc_wire import ServerStream, StreamResult, UnaryCall, UnaryResult

__all__ = ["OK", "RESPONSE", "FakeTransport", "Wired", "message"]

RESPONSE = [(":status", "200"), ("content-type", "application/grpc+proto")]
OK = [("grpc-status", "0")]


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


class FakeTransport:
    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0


class Wired:
    """What the client sends is heard at :meth:`to_server`, and the other way round."""

    def __init__(self, *, lean: bool = True, compresses: bool = False) -> None:
        self.turn: list[Callable[[], object]] = []
        self.timers: dict[Callable[[], object], float] = {}
        self.connection = GrpcConnection(parse_address("grpc://localhost"), self._call_later)
        self.protocol = ClientProtocol(self.connection, self.turn.append, lean=lean)
        self.transport = FakeTransport()
        self.protocol.connection_made(self.transport)
        address = parse_address("grpc://localhost")
        self.connection._protocol = self.protocol
        wire = CompressingWire if compresses else DirectWire
        self.connection._wire = wire(self.connection, self.protocol, address)
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.server.initiate_connection()
        self.requests: dict[int, bytearray] = {}
        self.headers: dict[int, dict[Any, Any]] = {}
        self.resets: list[int] = []
        self.results: list[UnaryResult] = []
        self.messages: list[str] = []
        self.opened = 0
        self.ends: list[StreamResult] = []
        self.reads_requests = True
        self.settle()

    def _call_later(self, delay: float, function: Callable[[], object]) -> Callable[[], object]:
        self.timers[function] = delay
        return lambda: self.timers.pop(function, None)

    def settle(self) -> None:
        """Until nobody has anything to say."""
        while self.to_server() | self.to_client():
            pass

    def to_server(self) -> bool:
        turn, self.turn[:] = list(self.turn), []
        for callback in turn:
            callback()
        data = bytes(self.transport.written)
        self.transport.written.clear()
        for event in self.server.receive_data(data):
            self._heard(event)
        return bool(data)

    def _heard(self, event: object) -> None:
        if isinstance(event, RequestReceived):
            self.requests[event.stream_id or 0] = bytearray()
            self.headers[event.stream_id or 0] = dict(event.headers)
        elif isinstance(event, StreamReset):
            self.resets.append(event.stream_id or 0)
        elif isinstance(event, DataReceived):
            self.requests[event.stream_id or 0] += event.data or b""
            if self.reads_requests and event.flow_controlled_length:
                self.server.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id or 0
                )

    def to_client(self, parts: Callable[[bytes], list[bytes]] = lambda data: [data]) -> bool:
        data = self.server.data_to_send()
        for part in parts(data) if data else ():
            if not self.transport.closing:
                self.protocol.data_received(part)
        return bool(data)

    @property
    def last(self) -> int:
        """The number of the newest request."""
        return max(self.requests)

    def call(
        self,
        payload: str = "x",
        on_sent: Callable[[bool], None] | None = None,
        *,
        urgent: bool = False,
    ) -> UnaryCall:
        request = PublishEventRequest(client_id="c", payload=payload)
        return self.connection.call(
            "/ensync.EnSyncService/PublishMessage",
            request,
            PublishEventResponse,
            self.results.append,
            on_sent,
            urgent=urgent,
        )

    def stream(
        self, on_message: Callable[[EventStreamResponse], None] | None = None
    ) -> ServerStream:
        def opened() -> None:
            self.opened += 1

        return self.connection.stream(
            "/ensync.EnSyncService/Subscribe",
            PublishEventRequest(client_id="c"),
            EventStreamResponse,
            on_open=opened,
            on_message=on_message or (lambda each: self.messages.append(each.event_idem)),
            on_end=self.ends.append,
        )

    def answer(
        self, number: int, body: bytes | None = None, trailers: Any = OK, headers: Any = RESPONSE
    ) -> None:
        """Answers a call as the engine would."""
        if body is None:
            body = message(bytes(PublishEventResponse(success=True, event_idem="e")))
        self.server.send_headers(number, headers)
        self.send(number, body)
        self.server.send_headers(number, trailers, end_stream=True)

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        """Sends data, as the window allows, in frames as large as may be."""
        while data or end:
            room = min(self.server.local_flow_control_window(number), 16_384)
            assert room, "the client's window is full"
            self.server.send_data(number, data[:room], end_stream=end and len(data) <= room)
            data, end = data[room:], end and len(data) > room
            if not self.server.local_flow_control_window(number):
                self.settle()

    @property
    def window_owed(self) -> int:
        """Bytes of the connection's window that the server lacks, and nobody owes it."""
        h2: Any = self.protocol.h2
        if hasattr(h2, "_owed"):
            owed, window = h2._owed, h2._in_window
        else:
            manager = h2._inbound_flow_control_window_manager
            owed, window = manager._bytes_processed, manager.current_window_size
        assert window == self.server.outbound_flow_control_window
        wire = self.connection._wire
        assert isinstance(wire, DirectWire)
        noted = wire.unpaid + sum(each.owed for each in self.protocol.exchanges.values())
        return int((1 << 31) - 1 - owed - noted - window)
