"""Calls and streams on a connection, whatever the engine does, over both HTTP/2s."""

from __future__ import annotations

import gc
import struct
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from ensync.errors import EnSyncConnectionError, EnSyncError
from ensync.proto.ensync import EventStreamResponse, PublishEventRequest, PublishEventResponse
from ensync.transports.base import Outcome
from ensync.transports.grpc_direct import WORTH_A_CREDIT, DirectWire
from ensync.transports.grpc_wire import UnaryCall
from ensync.transports.message_codec import encoder
from tests.unit.transports.http2_pair import cut, raw_frame
from tests.unit.transports.wired import OK, RESPONSE, Wired, message

BOTH = pytest.mark.parametrize("lean", [True, False], ids=["lean", "h2"])


def event(idem: str, payload: str = "") -> bytes:
    return message(
        encoder(EventStreamResponse)(EventStreamResponse(event_idem=idem, payload=payload))
    )


def failed(result: Any, text: str) -> None:
    assert isinstance(result, EnSyncConnectionError)
    assert text in str(result)


# Calls


@BOTH
def test_a_call_is_answered(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.call("payload")
    wired.settle()
    wired.answer(1)
    wired.settle()
    assert wired.results == [PublishEventResponse(success=True, event_idem="e")]
    sent = PublishEventRequest.parse(bytes(wired.requests[1][5:]))
    assert sent == PublishEventRequest(client_id="c", payload="payload")
    assert not wired.protocol.exchanges


BAD_REPLIES = {
    "nothing": (b"", OK, "not one uncompressed message"),
    "cut prefix": (b"\0\0", OK, "not one uncompressed message"),
    "cut message": (message(b"abcdef")[:-1], OK, "not one uncompressed message"),
    "two messages": (message(b"") * 2, OK, "not one uncompressed message"),
    "compressed": (b"\1" + message(b"")[1:], OK, "not one uncompressed message"),
    "garbage": (message(b"\x0a\xff"), OK, "can't be read"),
    "bad UTF-8": (message(b"\x12\x01\xff"), OK, "can't be read"),
    "no status": (message(b""), [("x", "y")], "gRPC status None"),
    "bad status": (message(b""), [("grpc-status", "99")], "gRPC status '99'"),
    "no number": (message(b""), [("grpc-status", "OK")], "gRPC status 'OK'"),
}


@BOTH
@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_reply_that_is_none_fails_its_call_alone(lean: bool, name: str) -> None:
    body, trailers, text = BAD_REPLIES[name]
    wired = Wired(lean=lean)
    wired.call()
    wired.call()
    wired.settle()
    wired.answer(1, body, trailers)
    wired.answer(3)
    wired.settle()
    failed(wired.results[0], text)
    assert isinstance(wired.results[1], PublishEventResponse)


@BOTH
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([*RESPONSE, ("grpc-status", "7"), ("grpc-message", "no%20%F0%9F")], "PERMISSION_DENIED"),
        ([(":status", "503")], "UNAVAILABLE"),
        ([(":status", "404"), ("content-type", "text/html")], "UNIMPLEMENTED"),
        ([(":status", "401")], "UNAUTHENTICATED"),
        ([(":status", "418")], "UNKNOWN"),
    ],
)
def test_a_refusal_in_the_headers(lean: bool, headers: Any, status: str) -> None:
    wired = Wired(lean=lean)
    wired.call()
    wired.stream()
    wired.settle()
    for number in (1, 3):
        wired.server.send_headers(number, headers, end_stream=True)
    wired.settle()
    for result in (*wired.results, *wired.ends):
        assert isinstance(result, GRPCError)
        assert result.status is Status[status]
    assert wired.opened == int((":status", "200") in headers)


@BOTH
@pytest.mark.parametrize(
    "content_type", ["text/html", "", "application/grpc-web", "application/grpc+json"]
)
def test_another_content_type_is_no_grpc(lean: bool, content_type: str) -> None:
    wired = Wired(lean=lean)
    wired.call()
    wired.settle()
    wired.server.send_headers(1, [(":status", "200"), ("content-type", content_type)])
    wired.server.send_headers(1, OK, end_stream=True)
    wired.settle()
    failed(wired.results[0], "content type")


@BOTH
@pytest.mark.parametrize("content_type", ["application/grpc", "Application/grpc ; charset=utf-8"])
def test_content_types_of_grpc(lean: bool, content_type: str) -> None:
    wired = Wired(lean=lean)
    wired.stream()
    wired.settle()
    wired.server.send_headers(1, [(":status", "200"), ("content-type", content_type)])
    wired.server.send_headers(1, OK, end_stream=True)
    wired.settle()
    assert wired.ends == [None]


@BOTH
def test_informational_and_unknown_frames_are_passed_over(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.call()
    wired.settle()
    wired.server.send_headers(1, [(":status", "103")])
    wired.to_client()
    wired.protocol.data_received(raw_frame(0xBE, 0, 0, b"x") + raw_frame(0xA, 0, 0, b"\0\1oh"))
    wired.answer(1)
    wired.settle()
    assert isinstance(wired.results[0], PublishEventResponse)


@BOTH
def test_a_reply_that_is_far_too_large_is_given_up(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.call()
    wired.settle()
    wired.server.send_headers(1, RESPONSE)
    with pytest.raises(StreamClosedError):
        wired.send(1, bytes(18 << 20))
    failed(wired.results[0], "far too large")
    wired.settle()
    assert wired.resets == [1]
    assert wired.window_owed == 0


@BOTH
def test_large_messages_both_ways_through_small_windows(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    wired.settle()
    sent: list[str] = []
    payload = "p" * (1 << 20)
    wired.call(payload, lambda _: sent.append("sent"))
    wired.reads_requests = False
    wired.to_server()
    assert len(wired.requests[1]) == 1000
    assert not sent
    wired.server.increment_flow_control_window(1 << 24)
    wired.server.increment_flow_control_window(1 << 24, stream_id=1)
    wired.settle()
    assert sent == ["sent"]
    assert PublishEventRequest.parse(bytes(wired.requests[1][5:])).payload == payload
    reply = PublishEventResponse(success=True, error_message="r" * (4 << 20))
    wired.answer(1, message(bytes(reply)))
    wired.settle()
    assert wired.results == [reply]
    assert wired.window_owed == 0


@BOTH
def test_an_early_answer_together_with_a_larger_window(lean: bool) -> None:
    # What arrives at once is read at once: the window grows for a stream that is over.
    wired = Wired(lean=lean)
    wired.reads_requests = False
    for _ in range(3):
        wired.call("p" * 200_000)
    wired.settle()
    wired.server.increment_flow_control_window(300_000)
    wired.server.reset_stream(1, error_code=7)
    wired.server.send_headers(3, [*RESPONSE, ("grpc-status", "8")], end_stream=True)
    wired.settle()
    failed(wired.results[0], "reset")
    assert isinstance(wired.results[1], GRPCError)
    assert wired.connection.error is None
    assert 3 in wired.resets
    assert not [number for number in wired.protocol.h2.streams if number == 3 and lean]
    wired.reads_requests = True
    wired.server.increment_flow_control_window(1 << 20)
    wired.server.increment_flow_control_window(1 << 20, stream_id=5)
    wired.settle()
    wired.answer(5)
    wired.settle()
    assert isinstance(wired.results[2], PublishEventResponse)


@BOTH
def test_early_answers_leave_no_streams_behind(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.reads_requests = False
    wired.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    wired.settle()
    for _ in range(300):
        wired.call("p" * 100)
        wired.settle()
        wired.server.send_headers(wired.last, [*RESPONSE, ("grpc-status", "8")], end_stream=True)
        wired.settle()
    assert [type(result) for result in wired.results] == [GRPCError] * 300


# Limits


@BOTH
def test_the_stream_limit_may_change_under_way(lean: bool) -> None:
    wired = Wired(lean=lean)
    calls = [wired.call() for _ in range(4)]
    wired.settle()
    wired.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
    wired.settle()
    calls += [wired.call() for _ in range(3)]
    for number in (1, 3, 5, 7):
        wired.answer(number)
    wired.settle()
    assert wired.last == 7
    assert len(wired.results) == 4
    wired.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
    wired.settle()
    assert wired.last == 11  # one place is kept for what is urgent
    wired.answer(9)
    wired.settle()
    assert wired.last == 13


@BOTH
def test_what_is_urgent_has_a_place_and_goes_first(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
    wired.settle()
    for number in range(4):
        wired.call(str(number))
    wired.settle()
    assert wired.last == 3
    for number in range(2):
        wired.call(f"urgent {number}", urgent=True)
    wired.settle()
    wired.answer(1)
    wired.settle()
    sent = [PublishEventRequest.parse(bytes(each[5:])).payload for each in wired.requests.values()]
    assert sent == ["0", "1", "urgent 0", "urgent 1"]


@BOTH
def test_where_subscriptions_leave_no_place_a_ping_asks_for_a_sign_of_life(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    wired.settle()
    assert wired.connection.has_slot_for_heartbeat
    wired.stream()
    assert not wired.connection.has_slot_for_heartbeat
    answers: list[Outcome | EnSyncError] = []
    wired.connection.ping(answers.append)
    wired.connection.ping(answers.append).cancel()
    wired.settle()
    assert answers == [Outcome(True)]
    assert not wired.connection.lost


@BOTH
def test_a_ping_ends_with_its_connection(lean: bool) -> None:
    wired = Wired(lean=lean)
    answers: list[Outcome | EnSyncError] = []
    wired.connection.ping(answers.append)
    wired.connection.lose(EnSyncConnectionError("it broke"))
    wired.connection.ping(answers.append)
    assert [str(answer) for answer in answers] == ["it broke", "it broke"]


@BOTH
def test_progress_counts_what_came_and_what_left(lean: bool) -> None:
    wired = Wired(lean=lean)
    before = wired.connection.progress()
    wired.call()
    assert wired.connection.progress().received == before.received
    wired.settle()
    assert wired.connection.progress().departed > before.departed
    wired.answer(1)
    wired.settle()
    assert wired.connection.progress().received > before.received


@BOTH
def test_calls_wait_in_order_while_the_socket_is_full(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.protocol.pause_writing()
    for name in "abc":
        wired.call(name)
    wired.settle()
    assert not wired.requests
    wired.protocol.resume_writing()
    wired.settle()
    bodies = [PublishEventRequest.parse(bytes(body[5:])) for body in wired.requests.values()]
    assert [body.payload for body in bodies] == ["a", "b", "c"]


@pytest.mark.parametrize(("lean", "code"), [(True, 2), (False, 2), (False, 0)])
def test_a_goaway_answers_everybody_once(lean: bool, code: int) -> None:
    wired = Wired(lean=lean)
    wired.call()
    wired.stream()
    lost: list[EnSyncConnectionError] = []
    wired.connection.when_lost(lost.append)
    wired.settle()
    wired.server.close_connection(error_code=code, last_stream_id=1)
    wired.to_client()
    assert len(wired.results) == len(wired.ends) == len(lost) == 1
    failed(wired.results[0], f"GOAWAY, error code {code}")
    assert wired.transport.closing


@BOTH
@pytest.mark.parametrize("code", [0, 2])
def test_what_came_before_a_goaway_counts(lean: bool, code: int) -> None:
    wired = Wired(lean=lean)
    wired.call()
    wired.call()
    wired.settle()
    wired.answer(1)
    wired.server.close_connection(code, last_stream_id=1)
    wired.to_client()
    assert isinstance(wired.results[0], PublishEventResponse)
    failed(wired.results[1], "GOAWAY")


def going_away(wired: Wired, last: int) -> None:
    wired.protocol.data_received(raw_frame(7, 0, 0, struct.pack(">II", last, 0)))


def test_after_a_graceful_goaway_what_was_heard_is_answered() -> None:
    wired = Wired()
    heard: list[bool] = []
    for _ in range(3):
        wired.call(on_sent=heard.append)
    wired.settle()
    lost: list[EnSyncConnectionError] = []
    wired.connection.when_lost(lost.append)
    going_away(wired, 3)
    failed(wired.results[0], "GOAWAY")  # of the third, which the engine never heard
    assert heard == [True, True, True, False]
    late = wired.call(on_sent=heard.append)
    assert not wired.connection.takes_more
    wired.answer(1)
    wired.settle()
    assert isinstance(wired.results[1], PublishEventResponse)
    assert not lost
    wired.answer(3)
    wired.settle()
    assert isinstance(wired.results[2], PublishEventResponse)
    failed(wired.results[3], "GOAWAY")
    assert late.path
    assert len(lost) == 1
    assert len(heard) == 4, "the late one was never sent"
    assert not wired.timers


def test_a_graceful_goaway_with_nothing_under_way_ends_at_once() -> None:
    wired = Wired()
    wired.stream()
    wired.settle()
    going_away(wired, 1)
    failed(wired.connection.error, "GOAWAY")
    assert len(wired.ends) == 1
    assert not wired.timers


def test_an_engine_that_goes_away_has_some_seconds() -> None:
    wired = Wired()
    heard: list[bool] = []
    for _ in range(2):
        wired.call(on_sent=heard.append)
    wired.settle()
    going_away(wired, (1 << 31) - 1)
    assert not wired.results
    going_away(wired, 1)
    assert len(wired.results) == 1
    ((expired, delay),) = wired.timers.items()
    assert delay == 5.0
    expired()
    failed(wired.results[1], "GOAWAY")
    assert heard == [True, True, False]
    assert wired.transport.aborted


@pytest.mark.parametrize("waiting", [50, 1000])
def test_a_goaway_in_one_read_with_a_reply(waiting: int) -> None:
    wired = Wired()
    heard: list[bool] = []
    for _ in range(99 + waiting):  # one place of a hundred is kept for heartbeats
        wired.call(on_sent=heard.append)
    wired.settle()
    assert heard == [True] * 99
    wired.answer(1)
    wired.server.close_connection(last_stream_id=wired.last)
    wired.to_client()
    assert not wired.connection.lost
    assert len(wired.results) == 1
    going = [number for number in wired.requests if number > 1]
    for number in going:
        wired.protocol.data_received(reply_to(number))
    answered = [each for each in wired.results if isinstance(each, PublishEventResponse)]
    assert len(answered) == 99
    assert len(wired.results) == 99 + waiting
    assert heard == [True] * 99


def reply_to(number: int) -> bytes:
    """What h2 does not send any more after a GOAWAY of its own."""
    server = Wired()
    while number not in server.requests:
        server.call()
        server.settle()
        if server.last < number:
            server.answer(server.last)
            server.settle()
    server.answer(number)
    return server.server.data_to_send()


@BOTH
@pytest.mark.parametrize(("code", "expected"), [(7, [True, False]), (8, [True])])
def test_a_refused_stream_was_never_heard(lean: bool, code: int, expected: list[bool]) -> None:
    wired = Wired(lean=lean)
    heard: list[bool] = []
    wired.call(on_sent=heard.append)
    wired.settle()
    wired.server.reset_stream(1, error_code=code)
    wired.settle()
    failed(wired.results[0], "reset a request")
    assert heard == expected


@BOTH
def test_an_engine_that_asks_and_does_not_read_is_left(lean: bool) -> None:
    wired = Wired(lean=lean)
    for _ in range(3000):
        wired.protocol.data_received(raw_frame(6, 0, 0, bytes(8)))
    assert wired.connection.error is None
    wired.protocol.pause_writing()
    wired.transport.written.clear()
    flood = raw_frame(6, 0, 0, bytes(8)) + raw_frame(4, 0, 0, struct.pack(">HI", 3, 9))
    for _ in range(600):
        if not wired.transport.closing:
            wired.protocol.data_received(flood)
    failed(wired.connection.error, "does not read the answers")
    assert len(wired.transport.written) < 30_000


# Streams


@given(
    sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 1 << 18), max_size=6),
    data_cuts=st.lists(st.integers(0, 1 << 18), max_size=6),
    held=st.booleans(),
    lean=st.booleans(),
)
def test_messages_arrive_whatever_the_cuts(
    sizes: list[int], cuts: list[int], data_cuts: list[int], held: bool, lean: bool
) -> None:
    wired = Wired(lean=lean)
    stream = wired.stream()
    wired.settle()
    wired.server.send_headers(1, RESPONSE)
    for part in cut(b"".join(event(str(i), "p" * n) for i, n in enumerate(sizes)), data_cuts):
        wired.send(1, part)
    if held:
        stream.hold()
    wired.server.send_headers(1, OK, end_stream=True)
    wired.to_client(lambda data: list(cut(data, cuts)))
    stream.release()
    assert wired.messages == [str(i) for i in range(len(sizes))]
    assert wired.ends == [None]
    assert wired.opened == 1
    assert wired.window_owed == 0


BAD_STREAMS = {
    "ends inside a message": (event("1")[:-1], True, "inside a message"),
    "compressed": (b"\1\0\0\0\0", False, "compressed"),
    "too large": (b"\0\xff\0\0\0", False, "a message of"),
    "garbage": (message(b"\x0a\xff"), False, "can't be read"),
}


@BOTH
@pytest.mark.parametrize("name", BAD_STREAMS)
def test_a_bad_stream_ends_alone(lean: bool, name: str) -> None:
    body, ends, text = BAD_STREAMS[name]
    wired = Wired(lean=lean)
    wired.stream()
    wired.settle()
    wired.server.send_headers(1, RESPONSE)
    wired.send(1, event("0") + body)
    if ends:
        wired.server.send_headers(1, OK, end_stream=True)
    wired.settle()
    assert wired.messages == ["0"]
    failed(wired.ends[0], text)
    assert wired.connection.error is None
    assert wired.window_owed == 0
    assert wired.resets == ([] if ends else [1])


@BOTH
def test_a_held_stream_fills_its_window_and_no_more(lean: bool) -> None:
    wired = Wired(lean=lean)
    stream = wired.stream()
    wired.settle()
    wired.server.send_headers(1, RESPONSE)
    stream.hold()
    sent = 0
    while wired.server.local_flow_control_window(1) > 2000:
        wired.send(1, event(str(sent), "p" * 1000))
        sent += 1
        wired.settle()
    assert 1000 < sent < 1100
    assert not wired.messages
    wired.call()
    wired.settle()
    wired.answer(3)
    wired.settle()
    assert len(wired.results) == 1
    stream.release()
    wired.settle()
    assert len(wired.messages) == sent
    assert wired.server.local_flow_control_window(1) > 1 << 19
    assert wired.window_owed == 0


@BOTH
def test_a_message_larger_than_the_window_arrives(lean: bool) -> None:
    wired = Wired(lean=lean)
    wired.stream()
    wired.settle()
    wired.server.send_headers(1, RESPONSE)
    wired.send(1, event("large", "p" * (5 << 20)) + event("next"))
    wired.settle()
    assert wired.messages == ["large", "next"]
    assert wired.window_owed == 0


@BOTH
def test_holding_and_releasing_inside_of_a_message(lean: bool) -> None:
    wired = Wired(lean=lean)
    seen: list[str] = []

    def on_message(each: EventStreamResponse) -> None:
        seen.append(each.event_idem)
        stream.hold()
        if each.event_idem != "2":
            stream.release()

    stream = wired.stream(on_message)
    stream.hold()
    wired.settle()
    wired.server.send_headers(1, RESPONSE)
    wired.send(1, b"".join(event(str(i)) for i in range(5)))
    wired.server.send_headers(1, OK, end_stream=True)
    wired.settle()
    assert seen == []
    stream.release()
    assert seen == ["0", "1", "2"]
    assert wired.ends == []
    stream.release()
    assert seen == ["0", "1", "2", "3", "4"]
    assert wired.ends == [None]


@BOTH
def test_cancelling_inside_of_a_message(lean: bool) -> None:
    wired = Wired(lean=lean)
    seen: list[str] = []

    def on_message(each: EventStreamResponse) -> None:
        seen.append(each.event_idem)
        stream.cancel()

    stream = wired.stream(on_message)
    wired.settle()
    wired.server.send_headers(1, RESPONSE)
    wired.send(1, event("0") + event("1") + event("2")[:3])
    wired.settle()
    assert seen == ["0"]
    assert wired.resets == [1]
    assert wired.ends == []
    assert wired.window_owed == 0


# The connection's window


@BOTH
def test_no_window_is_lost_over_many_streams(lean: bool) -> None:
    wired = Wired(lean=lean)
    for number in range(2_000 if lean else 1_000):
        _one_of_many(wired, number % 9)
    wired.settle()
    assert wired.window_owed == 0
    assert not wired.protocol.exchanges
    assert not wired.connection._running
    assert not wired.connection._streams
    if lean:
        assert not wired.protocol.h2.streams


@BOTH
def test_what_calls_have_taken_of_the_window_is_given_back_after_their_end(lean: bool) -> None:
    wired = Wired(lean=lean)
    size = WORTH_A_CREDIT // 8
    for _ in range(20):
        wired.call()
        wired.settle()
        wired.answer(wired.last, bytes(size))
        wired.settle()
        assert wired.window_owed == 0
    wire = wired.connection._wire
    assert isinstance(wire, DirectWire)
    assert wire.unpaid <= WORTH_A_CREDIT


def _one_of_many(wired: Wired, kind: int) -> None:
    exchange: Any = wired.stream() if kind < 5 else wired.call()
    wired.settle()
    number = wired.last
    if kind == 0:
        exchange.hold()
    if kind == 5:
        exchange.cancel()
        wired.server.send_headers(number, RESPONSE)  # under way to each other
        wired.server.send_data(number, message(b""))
        wired.to_client()
        wired.settle()
        return
    wired.server.send_headers(number, RESPONSE)
    wired.server.send_data(number, event("1") + event("2")[:4], pad_length=kind)
    wired.to_client()
    if kind in (0, 1, 6):
        wired.server.reset_stream(number)
        wired.settle()
    elif kind in (2, 7):
        exchange.cancel()
        wired.server.send_data(number, b"more")
        wired.to_client()
    elif kind == 3:
        exchange.hold()
        wired.server.send_data(number, event("2")[4:] + event("3"), end_stream=True)
        wired.to_client()
        exchange.cancel()
    else:
        wired.server.send_headers(number, OK, end_stream=True)
        wired.to_client()
    wired.settle()


@BOTH
@pytest.mark.parametrize("point", ["waiting", "half sent", "sent", "headers", "data", "done"])
def test_a_call_may_be_cancelled_at_any_point(lean: bool, point: str) -> None:
    wired = Wired(lean=lean)
    wired.reads_requests = False
    if point == "waiting":
        wired.protocol.pause_writing()
    call = wired.call("p" * (100_000 if point == "half sent" else 10))
    wired.settle()
    if point in ("headers", "data", "done"):
        wired.server.send_headers(1, RESPONSE)
    if point in ("data", "done"):
        wired.server.send_data(1, message(bytes(PublishEventResponse(success=True))))
    if point == "done":
        wired.server.send_headers(1, OK, end_stream=True)
    wired.settle()
    call.cancel()
    call.cancel()
    wired.protocol.resume_writing()
    wired.settle()
    assert len(wired.results) == (1 if point == "done" else 0)
    assert wired.resets == ([] if point in ("waiting", "done") else [1])
    assert not wired.connection._running
    assert not wired.connection._waiting
    assert not wired.protocol.exchanges
    assert wired.window_owed == 0


@BOTH
def test_losing_the_connection_answers_everybody_once(lean: bool) -> None:
    wired = Wired(lean=lean)
    stream = wired.stream()
    stream.hold()
    wired.call()
    wired.settle()
    wired.server.send_headers(1, RESPONSE)
    wired.send(1, event("1"))
    wired.settle()
    wired.protocol.connection_lost(OSError("gone"))
    assert not wired.transport.aborted  # it is gone, and not to be aborted
    assert len(wired.results) == len(wired.ends) == 1
    failed(wired.results[0], "gone")
    stream.release()
    stream.cancel()
    wired.call()
    failed(wired.results[1], "gone")


class Holder:
    """Whoever is told of a call, and holds it."""

    call: UnaryCall

    def told(self, _sent: bool) -> None:
        """The call has left."""


@BOTH
@pytest.mark.parametrize("how", ["answered", "cancelled", "lost"])
def test_calls_leave_nothing_to_the_garbage_collector(lean: bool, how: str) -> None:
    wired = Wired(lean=lean)
    others = _unary_calls()  # held, so that those of them that are garbage stay
    holder = Holder()
    holder.call = wired.call(on_sent=holder.told)
    wired.settle()
    gc.disable()
    try:
        if how == "answered":
            wired.answer(1)
        elif how == "cancelled":
            holder.call.cancel()
        else:
            wired.connection.lose(EnSyncConnectionError("lost"))
        wired.settle()
        del holder
        assert [call for call in _unary_calls() if call not in others] == []
    finally:
        gc.enable()


def _unary_calls() -> list[UnaryCall]:
    return [thing for thing in gc.get_objects() if isinstance(thing, UnaryCall)]
