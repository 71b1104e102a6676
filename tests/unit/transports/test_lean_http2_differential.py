"""Legal traffic, in any order and in any cuts: the lean connection does what h2 does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import TooManyStreamsError
from h2.settings import SettingCodes
from hyperframe.frame import PriorityFrame
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ensync.transports.http2_frames import PREFACE
from ensync.transports.lean_http2 import LeanConnection
from tests.unit.transports.http2_pair import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    StubbornEncoder,
    cut,
    frames_of,
    new_h2,
    new_lean,
    new_server,
    raw_frame,
    reframed,
    seen,
)

CUTS = st.lists(st.integers(0, 1 << 17), max_size=4)
ENDS = (StreamEnded, StreamReset)
RESPONSES = st.sampled_from(
    [
        RESPONSE,
        [*RESPONSE, ("x-request", "a")],
        [*RESPONSE, ("x-request", "b"), ("x-request", "b")],
        [*RESPONSE, ("x-long", "Huffman? " * 5000)],
        [(":status", "404"), ("content-type", "text/html")],
    ]
)


def _events_at_server(events: list[Any]) -> list[tuple[Any, ...]]:
    shown: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, RequestReceived):
            shown.append(("request", event.stream_id, list(map(tuple, event.headers))))
        elif isinstance(event, DataReceived):
            shown.append(("data", event.stream_id, event.data))
        elif isinstance(event, ENDS):
            shown.append((type(event).__name__, event.stream_id))
    return shown


def _parts(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut at each frame too: h2 learns of a larger frame size between two readings."""
    position = len(PREFACE) if data.startswith(PREFACE) else 0
    ends: list[int] = []
    for frame in frames_of(data[position:]):
        position += len(frame.data)
        ends.append(position)
    return cut(data, [*cuts, *ends])


class Conversation(RuleBasedStateMachine):
    """Two clients that do the same, each with a server; both are told by the lean one's."""

    def __init__(self) -> None:
        super().__init__()
        self.lean: LeanConnection = new_lean()
        self.h2: H2Connection = new_h2()
        self.server: H2Connection = new_server()
        self.other_server: H2Connection = new_server()
        self.extra: bytes = b""  # what the server says that h2 would not
        self.unsent: dict[int, bytes] = {}  # of each request that the client still makes
        self.alive: set[int] = set()  # where the client waits for the answer
        self.unread: dict[int, int] = {}  # bytes to give back
        self.requests: set[int] = set()  # where the server may answer
        self.answered: set[int] = set()
        self.unconfirmed = 1  # settings of the server

    @property
    def clients(self) -> tuple[Any, Any]:
        return self.lean, self.h2

    @property
    def servers(self) -> tuple[Any, Any]:
        return self.server, self.other_server

    # The clients

    @rule(size=st.integers(0, 70_000), name=st.integers(0, 3), long=st.booleans())
    def request(self, size: int, name: int, long: bool) -> None:
        headers = [*REQUEST, ("x-name", str(name) * (20_000 if long else 1))]
        number = self.lean.get_next_available_stream_id()
        assert number == self.h2.get_next_available_stream_id()
        refusals = [_refusal(client, number, headers) for client in self.clients]
        assert refusals[0] == refusals[1]
        if refusals[0] is None:
            self.unsent[number] = bytes([65 + name]) * size
            self.alive.add(number)
            self.send_more(number)

    def send_more(self, number: int) -> None:
        while number in self.unsent:
            rooms = [
                min(c.local_flow_control_window(number), c.max_outbound_frame_size)
                for c in self.clients
            ]
            assert rooms[0] == rooms[1]
            data = self.unsent[number]
            chunk, rest = data[: max(0, rooms[0])], data[max(0, rooms[0]) :]
            if data and not chunk:
                return
            for client in self.clients:
                client.send_data(number, chunk, end_stream=not rest)
            if rest:
                self.unsent[number] = rest
            else:
                del self.unsent[number]

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.alive)))
        for client in self.clients:
            client.reset_stream(number, error_code=8)
        self.alive.discard(number)
        self.unsent.pop(number, None)

    @precondition(lambda self: any(self.unread.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(n for n, size in self.unread.items() if size)))
        size = data.draw(st.integers(1, self.unread[number]))
        self.unread[number] -= size
        for client in self.clients:
            client.acknowledge_received_data(size, number)

    # The network

    @rule(cuts=CUTS)
    def to_servers(self, cuts: list[int]) -> None:
        data = self.lean.data_to_send()
        events = [e for part in _parts(data, cuts) for e in self.server.receive_data(part)]
        data = self.h2.data_to_send()
        others = [e for part in _parts(data, []) for e in self.other_server.receive_data(part)]
        self._heard_by_servers(events, others)

    def _heard_by_servers(self, events: list[Any], others: list[Any]) -> None:
        # A second reset of the same stream says nothing.
        assert _events_at_server(events) == _events_at_server(others)
        for event in events:
            if isinstance(event, RequestReceived):
                self.requests.add(event.stream_id or 0)
            elif isinstance(event, StreamReset):
                self.requests.discard(event.stream_id or 0)
            elif isinstance(event, SettingsAcknowledged):
                self.unconfirmed -= 1
            elif isinstance(event, DataReceived) and event.flow_controlled_length:
                for server in self.servers:
                    server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    @rule(cuts=CUTS)
    def to_clients(self, cuts: list[int]) -> None:
        self._say_extra()
        data = self.extra
        self.extra = b""
        lean, h2 = (
            [event for part in cut(data, cuts) for event in client.receive_data(part)]
            for client in self.clients
        )
        assert seen(lean) == seen(h2)
        # All was read before any of it is told, so what is over is over from here on.
        for event in sorted(lean, key=lambda event: not isinstance(event, ENDS)):
            self._heard_by_clients(event)

    def _say_extra(self) -> None:
        self.extra += self.server.data_to_send()
        self.other_server.data_to_send()

    def _heard_by_clients(self, event: Any) -> None:
        if isinstance(event, DataReceived):
            number, size = event.stream_id or 0, event.flow_controlled_length or 0
            self.unread[number] = self.unread.get(number, 0) + size
        elif isinstance(event, StreamEnded):
            if event.stream_id in self.unsent:
                # The lean one has done so by itself.
                self.h2.reset_stream(event.stream_id, error_code=8)
            self._over(event.stream_id or 0)
        elif isinstance(event, StreamReset):
            self._over(event.stream_id or 0)
        elif isinstance(event, WindowUpdated) or type(event).__name__ == "RemoteSettingsChanged":
            for number in list(self.unsent):
                self.send_more(number)

    def _over(self, number: int) -> None:
        self.alive.discard(number)
        self.unsent.pop(number, None)

    # The server

    def _draw(self, data: st.DataObject, numbers: set[int]) -> int:
        return data.draw(st.sampled_from(sorted(numbers)))

    @precondition(lambda self: self.requests - self.answered)
    @rule(
        data=st.data(),
        headers=RESPONSES,
        end=st.booleans(),
        shape=st.none() | st.tuples(st.integers(800, 5000), st.none() | st.integers(0, 255)),
        priority=st.booleans(),
    )
    def respond(
        self, data: st.DataObject, headers: Any, end: bool, shape: Any, priority: bool
    ) -> None:
        number = self._draw(data, self.requests - self.answered)
        self._send_block(number, headers, end, shape, priority)
        self.answered.add(number)
        if end:
            self.requests.discard(number)

    def _send_block(self, number: int, headers: Any, end: bool, shape: Any, priority: bool) -> None:
        self._say_extra()
        for server in self.servers:
            server.send_headers(number, headers, end_stream=end)
        said = list(frames_of(self.server.data_to_send()))
        if shape is None:
            self.extra += b"".join(frame.data for frame in said)
            return
        block = said[0]._replace(body=b"".join(frame.body for frame in said))
        size, padding = shape
        self.extra += reframed(block, size, padding, priority)

    @precondition(lambda self: self.alive & self.requests - self.answered)
    @rule(data=st.data(), status=st.sampled_from(["100", "103"]))
    def inform(self, data: st.DataObject, status: str) -> None:
        # Heard at once: h2 gives the connection up when the stream was reset meanwhile.
        number = self._draw(data, self.alive & self.requests - self.answered)
        self._send_block(number, [(":status", status)], False, None, False)
        self.to_clients([])

    @precondition(lambda self: self.requests & self.answered)
    @rule(
        data=st.data(),
        size=st.sampled_from([0, 1]) | st.integers(0, 16_000),
        padding=st.none() | st.integers(0, 255),
        end=st.booleans(),
    )
    def send(self, data: st.DataObject, size: int, padding: int | None, end: bool) -> None:
        number = self._draw(data, self.requests & self.answered)
        room = min(server.local_flow_control_window(number) for server in self.servers)
        if room < size + (0 if padding is None else padding + 1):
            return
        for server in self.servers:
            server.send_data(number, b"d" * size, end_stream=end, pad_length=padding)
        if end:
            self.requests.discard(number)

    @precondition(lambda self: self.requests & self.answered)
    @rule(data=st.data(), message=st.sampled_from(["", "no", "later"]))
    def finish(self, data: st.DataObject, message: str) -> None:
        number = self._draw(data, self.requests & self.answered)
        self._send_block(number, [*TRAILERS, ("grpc-message", message)], True, None, False)
        self.requests.discard(number)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), code=st.sampled_from([0, 2, 7, 8, 0x99]))
    def reset(self, data: st.DataObject, code: int) -> None:
        number = self._draw(data, self.requests)
        for server in self.servers:
            server.reset_stream(number, error_code=code)
        self.requests.discard(number)

    @rule(data=st.data(), size=st.integers(1, 100_000))
    def widen(self, data: st.DataObject, size: int) -> None:
        number = data.draw(st.sampled_from([None, *sorted(self.requests)]))
        for server in self.servers:
            server.increment_flow_control_window(size, stream_id=number)

    # h2's servers take the first confirmation for that of all their settings.
    @precondition(lambda self: not self.unconfirmed)
    @rule(
        changed=st.dictionaries(
            st.sampled_from(
                [
                    SettingCodes.INITIAL_WINDOW_SIZE,
                    SettingCodes.MAX_FRAME_SIZE,
                    SettingCodes.MAX_CONCURRENT_STREAMS,
                    SettingCodes.HEADER_TABLE_SIZE,
                    SettingCodes.MAX_HEADER_LIST_SIZE,
                ]
            ),
            st.integers(0, 5),
            min_size=1,
        )
    )
    def change_settings(self, changed: dict[SettingCodes, int]) -> None:
        values = {code: _setting(code, step) for code, step in changed.items()}
        # Never more than before: h2 as a client says sizes that are not allowed any more.
        table_size = self.server.local_settings.header_table_size
        if values.get(SettingCodes.HEADER_TABLE_SIZE, 0) > table_size:
            values[SettingCodes.HEADER_TABLE_SIZE] = table_size
        self.unconfirmed += 1
        for server in self.servers:
            server.update_settings(values)

    @rule(
        what=st.sampled_from(
            [
                raw_frame(0xA, 0, 0, b'\0\x03ownh2=":1"'),
                raw_frame(0xBE, 7, 0, b"extension"),
                raw_frame(0xBE, 7, 1, b""),
                PriorityFrame(9, depends_on=3, stream_weight=9).serialize(),
                raw_frame(6, 1, 0, b"not ours"),
            ]
        )
    )
    def say_more(self, what: bytes) -> None:
        self._say_extra()
        self.extra += what

    @rule()
    def ping(self) -> None:
        for server in self.servers:
            server.ping(b"01234567")

    @invariant()
    def what_is_given_back_is_said(self) -> None:
        # h2 gives back in other portions, so the sum is what can be told.
        assert set(self.lean.streams) == self.alive
        assert window_left(self.lean) + sum(self.unread.values()) == (1 << 31) - 1


def window_left(lean: LeanConnection) -> int:
    """What the server may send, and what is about to be given back."""
    return lean._in_window + lean._owed


def _refusal(client: Any, number: int, headers: Any) -> type[Exception] | None:
    try:
        client.send_headers(number, headers)
    except TooManyStreamsError as error:
        return type(error)
    return None


def _setting(code: SettingCodes, step: int) -> int:
    if code is SettingCodes.INITIAL_WINDOW_SIZE:
        return (0, 1, 100, 65_535, 200_000, 1 << 20)[step]
    if code is SettingCodes.MAX_FRAME_SIZE:
        return (16_384, 16_385, 20_000, 65_535, 1 << 20, (1 << 24) - 1)[step]
    if code is SettingCodes.MAX_CONCURRENT_STREAMS:
        return (0, 1, 2, 10, 100, 1000)[step]
    if code is SettingCodes.HEADER_TABLE_SIZE:
        return (0, 1, 100, 1000, 4000, 4096)[step]
    return (100_000, 200_000, 1 << 20, 1 << 24, 1 << 30, 1 << 31)[step]


class ConversationWithTable(Conversation):
    """The same with a server that keeps its header table."""

    def __init__(self) -> None:
        super().__init__()
        for server in self.servers:
            server.encoder = StubbornEncoder()

    @rule(size=st.sampled_from([0, 60, 100, 4096]))
    def resize_table(self, size: int) -> None:
        for server in self.servers:
            server.encoder.resize(size)


TestConversation = pytest.mark.timeout(120)(Conversation.TestCase)
TestConversation.settings = settings(max_examples=15, stateful_step_count=30)
TestConversationWithTable = pytest.mark.timeout(120)(ConversationWithTable.TestCase)
TestConversationWithTable.settings = settings(max_examples=10, stateful_step_count=30)
