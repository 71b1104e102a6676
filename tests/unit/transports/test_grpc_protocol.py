"""What of grpclib is leant on, beyond its public API: a new grpclib that differs fails here.

If a test here fails after an upgrade, ``http2="grpclib"`` still works: see ``grpc_plain``.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol
from h2.events import (
    ConnectionTerminated,
    DataReceived,
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
from h2.exceptions import ProtocolError

from ensync.address import parse_address
from ensync.transports.grpc_direct import DirectWire, _Exchange
from ensync.transports.grpc_protocol import (
    CONNECTION_WINDOW,
    STREAM_WINDOW,
    ClientProtocol,
    FixedChannel,
)
from ensync.transports.lean_http2 import LeanConnection
from tests.unit.transports.http2_pair import raw_frame
from tests.unit.transports.wired import FakeTransport, Wired

BOTH = pytest.mark.parametrize("lean", [True, False], ids=["lean", "h2"])


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (H2Protocol.__init__, ["self", "handler", "config", "h2_config"]),
        (H2Protocol.connection_made, ["self", "transport"]),
        (H2Protocol.data_received, ["self", "data"]),
        (H2Protocol.resume_writing, ["self"]),
        (H2Protocol.connection_lost, ["self", "exc"]),
        (EventsProcessor.__init__, ["self", "handler", "connection"]),
        (EventsProcessor.process, ["self", "event"]),
        (Connection.__init__, ["self", "connection", "transport", "config"]),
        (Connection.feed, ["self", "data"]),
        (Connection.flush, ["self"]),
        (Connection.is_closing, ["self"]),
        (Channel.__connect__, ["self"]),
        (Configuration.__for_client__, ["self"]),
        (AbstractHandler.accept, ["self", "stream", "headers", "release_stream"]),
        (AbstractHandler.cancel, ["self", "stream"]),
        (AbstractHandler.close, ["self"]),
    ],
)
def test_signatures(function: Any, expected: list[str]) -> None:
    assert parameters(function) == expected


def test_attributes_of_a_connection() -> None:
    wired = Wired(lean=False)
    connection = wired.protocol.connection
    assert isinstance(connection.write_ready, asyncio.Event)
    assert connection._connection is wired.protocol.h2
    assert wired.protocol.processor.connection is connection
    assert wired.protocol.processor.streams is wired.protocol.exchanges


class Spy:
    """Writes down what grpclib asks of a stream, so that no name is forgotten."""

    def __init__(self, path: str, seen: set[str]) -> None:
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_seen", seen)

    def __getattribute__(self, name: str) -> Any:
        path, seen = object.__getattribute__(self, "_path"), object.__getattribute__(self, "_seen")
        seen.add(f"{path}{name}")
        return 0 if name == "data_received" else Spy(f"{path}{name}.", seen)

    def __setattr__(self, name: str, value: object) -> None:
        object.__getattribute__(self, "_seen").add(
            f"{object.__getattribute__(self, '_path')}{name} ="
        )

    def __call__(self, *args: object) -> None:
        path, seen = object.__getattribute__(self, "_path"), object.__getattribute__(self, "_seen")
        seen.add(f"{path[:-1]}({len(args)})")


def _goaway() -> ConnectionTerminated:
    event = ConnectionTerminated()
    event.error_code, event.last_stream_id = 0, 0
    return event


def _settings() -> RemoteSettingsChanged:
    event = RemoteSettingsChanged()
    event.changed_settings = {4: object()}  # type: ignore[dict-item]
    return event


ASKED: list[tuple[Any, set[str]]] = [
    (_settings(), {"window_updated", "window_updated.set", "window_updated.set(0)"}),
    (StreamReset(stream_id=1), {"__terminated__", "__terminated__(1)"}),
    (_goaway(), {"__terminated__", "__terminated__(1)"}),
    (SettingsAcknowledged(), set()),
    (PingReceived(ping_data=b""), set()),
    (PingAckReceived(ping_data=b""), set()),
]
TAKEN_OVER = {ResponseReceived, DataReceived, TrailersReceived, StreamEnded, WindowUpdated}


@pytest.mark.parametrize(("event", "expected"), ASKED, ids=lambda value: type(value).__name__)
def test_what_grpclib_asks_of_a_stream(event: Any, expected: set[str]) -> None:
    class Handler(AbstractHandler):
        def accept(self, stream: Any, headers: Any, release_stream: Any) -> None: ...
        def cancel(self, stream: Any) -> None: ...
        def close(self) -> None: ...

    config = Configuration().__for_client__()
    h2: Any = LeanConnection()
    transport: Any = FakeTransport()
    processor = EventsProcessor(Handler(), Connection(h2, transport, config=config))
    seen: set[str] = set()
    spy: Any = Spy("", seen)
    processor.streams[1] = spy
    processor.process(event)
    assert seen == expected
    names = {name.partition(".")[0].partition("(")[0].partition(" ")[0] for name in expected}
    for name in names:
        assert hasattr(_Exchange, name)


def test_every_event_of_a_client_has_a_processor() -> None:
    processors = set(Wired(lean=False).protocol.processor.processors)
    ours = set(Wired(lean=True).protocol.processor.processors)
    assert {type(event) for event, _ in ASKED} | TAKEN_OVER <= processors == ours


@BOTH
def test_what_arrives_on_streams_is_not_left_to_grpclib(lean: bool) -> None:
    wired = Wired(lean=lean)
    processors: Any = wired.protocol.processor.processors
    mine = {kind for kind in processors if isinstance(_owner(processors[kind]), DirectWire)}
    assert mine == TAKEN_OVER


def _owner(function: Any) -> object:
    return getattr(function, "__self__", None)


@BOTH
def test_the_greeting_opens_the_windows(lean: bool) -> None:
    wired = Wired(lean=lean)
    assert wired.server.outbound_flow_control_window == CONNECTION_WINDOW
    assert wired.server.remote_settings.initial_window_size == STREAM_WINDOW
    assert wired.server.remote_settings.enable_push == (0 if lean else 1)


# A channel asks for the running loop.
@pytest.mark.anyio
@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": asyncio.SelectorEventLoop})]
)
async def test_a_channel_does_not_connect_by_itself() -> None:
    wired = Wired(lean=False)
    channel: Any = FixedChannel(parse_address("grpc://localhost"), wired.protocol, None)
    assert await channel.__connect__() is wired.protocol


def fresh(lean: bool) -> Wired:
    """Connected, before the engine has said anything."""
    wired = Wired(lean=lean)
    wired.protocol = ClientProtocol(wired.connection, wired.turn.append, lean=lean)
    wired.protocol.connection_made(FakeTransport())
    return wired


@BOTH
@pytest.mark.parametrize(
    ("first", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak gRPC"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "answers in TLS"),
        (b"+OK\r\n", "does not speak gRPC"),
    ],
)
def test_who_is_no_engine_is_told(lean: bool, first: bytes, text: str) -> None:
    wired = fresh(lean)
    wired.protocol.data_received(first)
    assert text in str(wired.connection.error)


@BOTH
def test_a_greeting_may_come_in_bits(lean: bool) -> None:
    wired = fresh(lean)
    for byte in raw_frame(4, 0, 0) + raw_frame(4, 1, 0):
        wired.protocol.data_received(bytes([byte]))
    assert wired.connection.error is None


def test_what_the_lean_one_refuses_is_tried_with_h2() -> None:
    for lean in (True, False):
        wired = Wired(lean=lean)
        wired.protocol.data_received(raw_frame(6, 0, 1, bytes(8)))
        assert wired.connection.error is not None
        assert isinstance(wired.connection.error.__cause__, ProtocolError)
        assert wired.connection.needs_h2 == lean


@BOTH
def test_an_error_of_ours_in_a_callback_is_no_reason_for_h2(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.call()
    wired.settle()

    def broken(_event: object) -> None:
        raise RuntimeError("ours")

    wired.protocol._listen(StreamEnded, broken)
    wired.answer(1)
    wired.to_client()
    assert "ours" in str(wired.connection.error)
    assert not wired.connection.needs_h2
