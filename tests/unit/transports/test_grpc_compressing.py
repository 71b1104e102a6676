"""Who begins to compress, when, and what is taken of an engine, over both HTTP/2s."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from ensync.proto.ensync import EventStreamResponse, PublishEventRequest, PublishEventResponse
from ensync.transports.grpc_codings import compress, decompress
from ensync.transports.grpc_framing import MAX_MESSAGE
from tests.unit.transports.test_grpc_direct import BOTH, failed
from tests.unit.transports.wired import OK, RESPONSE, Wired, message

TELLS = "grpc-accept-encoding"
CODING = "grpc-encoding"
LARGE = "p" * 1000


def telling(accepted: str) -> Any:
    return [*RESPONSE, (TELLS, accepted)]


def packed(body: Any, coding: str = "deflate") -> bytes:
    """A compressed message."""
    data = compress(bytes(body), coding)
    return b"\1" + message(data)[1:]


def ask(wired: Wired, headers: Any = RESPONSE, payload: str = LARGE) -> int:
    """A call that is answered; the number of its stream."""
    wired.call(payload)
    wired.settle()
    number = wired.last
    wired.answer(number, headers=headers)
    wired.settle()
    assert isinstance(wired.results[-1], PublishEventResponse)
    return number


def payload_of(wired: Wired, number: int) -> str:
    """What a request says, in the coding that it names if it is said to be compressed."""
    body = bytes(wired.requests[number])
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    data = body[5:]
    if body[0]:
        data = decompress(data, wired.headers[number][CODING], MAX_MESSAGE)
    return PublishEventRequest.parse(data).payload


def is_compressed(wired: Wired, number: int) -> bool:
    assert payload_of(wired, number) in (LARGE, "x")
    return bool(wired.requests[number][0])


# What is sent


@BOTH
def test_without_the_option_nothing_is_said_of_codings(lean: bool) -> None:
    wired = Wired(lean=lean)
    ask(wired, telling("deflate, gzip, identity"))
    number = ask(wired)
    assert not is_compressed(wired, number)
    assert not {TELLS, CODING} & set(wired.headers[number])


@BOTH
def test_every_request_says_what_is_taken(lean: bool) -> None:
    wired = Wired(lean=lean, compresses=True)
    wired.stream()
    numbers = [ask(wired), ask(wired, telling("deflate")), ask(wired)]
    for number in (1, *numbers):
        assert wired.headers[number][TELLS] == "deflate, gzip, identity"


@BOTH
def test_an_engine_that_does_not_tell_gets_nothing_compressed(lean: bool) -> None:
    wired = Wired(lean=lean, compresses=True)
    for headers in (RESPONSE, [*RESPONSE, (CODING, "gzip")], RESPONSE):
        number = ask(wired, headers)
        assert CODING not in wired.headers[number]
        assert not is_compressed(wired, number)


@BOTH
@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("identity, deflate, gzip", "deflate"),
        ("gzip,deflate", "deflate"),
        ("identity,gzip", "gzip"),
        ("identity", None),
        ("snappy", None),
        ("", None),
    ],
)
def test_what_the_engine_tells_decides(lean: bool, accepted: str, coding: str | None) -> None:
    wired = Wired(lean=lean, compresses=True)
    first = ask(wired, telling(accepted))
    assert CODING not in wired.headers[first]
    assert not is_compressed(wired, first)
    for _ in range(2):  # also when it does not tell again
        number = ask(wired)
        assert wired.headers[number].get(CODING) == coding
        assert is_compressed(wired, number) == (coding is not None)


@BOTH
def test_a_refusal_in_the_headers_tells_too(lean: bool) -> None:
    wired = Wired(lean=lean, compresses=True)
    wired.call()
    wired.settle()
    wired.server.send_headers(1, [*telling("gzip"), ("grpc-status", "7")], end_stream=True)
    wired.settle()
    assert wired.headers[ask(wired)][CODING] == "gzip"


@BOTH
def test_a_stream_that_begins_tells_too(lean: bool) -> None:
    wired = Wired(lean=lean, compresses=True)
    wired.stream()
    wired.settle()
    wired.server.send_headers(1, telling("deflate"))
    wired.settle()
    assert wired.opened == 1
    assert is_compressed(wired, ask(wired))


@BOTH
def test_what_was_told_last_counts(lean: bool) -> None:
    wired = Wired(lean=lean, compresses=True)
    ask(wired, telling("deflate"))
    assert wired.headers[ask(wired, telling("gzip"))][CODING] == "deflate"
    assert wired.headers[ask(wired, telling("identity"))][CODING] == "gzip"
    number = ask(wired)
    assert CODING not in wired.headers[number]
    assert not is_compressed(wired, number)


@BOTH
def test_small_messages_are_sent_as_they_are(lean: bool) -> None:
    wired = Wired(lean=lean, compresses=True)
    ask(wired, telling("deflate"))
    number = ask(wired, payload="x")
    assert wired.headers[number][CODING] == "deflate"
    assert not is_compressed(wired, number)


def test_another_connection_knows_nothing_of_the_first() -> None:
    ask(Wired(compresses=True), telling("deflate"))
    other = Wired(compresses=True)
    assert not is_compressed(other, ask(other))


@BOTH
def test_a_large_message_through_a_small_window(lean: bool) -> None:
    wired = Wired(lean=lean, compresses=True)
    ask(wired, telling("deflate"))
    payload = "".join(map(str, range(100_000)))
    number = ask(wired, payload=payload)
    assert payload_of(wired, number) == payload
    assert wired.requests[number][0]


# What is taken


@BOTH
@pytest.mark.parametrize("coding", ["deflate", "gzip"])
def test_compressed_replies_and_events(lean: bool, coding: str) -> None:
    wired = Wired(lean=lean, compresses=True)
    coded = [*RESPONSE, (CODING, coding)]
    reply = PublishEventResponse(success=True, error_message=LARGE)
    wired.call()
    wired.stream()
    wired.settle()
    wired.answer(1, packed(reply, coding), headers=coded)
    wired.server.send_headers(3, coded)
    for idem in "abc":
        event = EventStreamResponse(event_idem=idem, payload=LARGE)
        plain = message(bytes(EventStreamResponse(event_idem=idem.upper())))
        wired.send(3, packed(event, coding) + plain)
    wired.server.send_headers(3, OK, end_stream=True)
    wired.settle()
    assert wired.results == [reply]
    assert wired.messages == list("aAbBcC")
    assert wired.ends == [None]
    assert wired.window_owed == 0


@BOTH
def test_a_held_stream_decompresses_nothing_yet(lean: bool) -> None:
    wired = Wired(lean=lean, compresses=True)
    stream = wired.stream()
    stream.hold()
    wired.settle()
    wired.server.send_headers(1, [*RESPONSE, (CODING, "deflate")])
    wired.send(1, packed(EventStreamResponse(event_idem="1", payload=LARGE)) + b"\1\0\0\0\1!")
    wired.settle()
    assert not wired.messages
    assert not wired.ends
    stream.release()
    assert wired.messages == ["1"]
    failed(wired.ends[0], "can't be read")


WHOLE = packed(PublishEventResponse(success=True, error_message=LARGE))
BOMB = b"\1" + message(zlib.compress(bytes(MAX_MESSAGE + 1), 1))[1:]
REFUSED = {
    "no coding": (RESPONSE, WHOLE, "a compressed message"),
    "identity": ([*RESPONSE, (CODING, "identity")], WHOLE, "a compressed message"),
    "another coding": ([*RESPONSE, (CODING, "snappy")], WHOLE, "'snappy'"),
    "the wrong coding": ([*RESPONSE, (CODING, "gzip")], WHOLE, "no gzip"),
    "cut": (
        [*RESPONSE, (CODING, "deflate")],
        b"\1" + message(WHOLE[5:-1])[1:],
        "too early",
    ),
    "nothing": ([*RESPONSE, (CODING, "deflate")], b"\1\0\0\0\0", "too early"),
    "more": ([*RESPONSE, (CODING, "deflate")], b"\1" + message(WHOLE[5:] + b"!")[1:], "after it"),
    "a bomb": ([*RESPONSE, (CODING, "deflate")], BOMB, f"more than {MAX_MESSAGE} bytes"),
    "a bad flag": ([*RESPONSE, (CODING, "deflate")], b"\2" + WHOLE[1:], "message"),
}


@BOTH
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_compressed_badly_fails_alone(lean: bool, name: str) -> None:
    headers, body, text = REFUSED[name]
    wired = Wired(lean=lean, compresses=True)
    wired.call()
    wired.stream()
    wired.settle()
    wired.answer(1, body, headers=headers)
    wired.server.send_headers(3, headers)
    wired.send(3, body)
    wired.settle()
    failed(wired.results[0], text)
    failed(wired.ends[0], text)
    assert not wired.messages
    assert wired.connection.error is None
    assert wired.resets == [3]
    assert wired.window_owed == 0


@BOTH
def test_without_the_option_a_coding_that_is_named_changes_nothing(lean: bool) -> None:
    wired = Wired(lean=lean)
    coded = [*RESPONSE, (CODING, "deflate")]
    wired.call()
    wired.stream()
    wired.settle()
    wired.answer(1, WHOLE, headers=coded)
    wired.server.send_headers(3, coded)
    wired.send(3, b"\1\0\0\0\xff")  # refused before it has come
    wired.settle()
    failed(wired.results[0], "not one uncompressed message")
    failed(wired.ends[0], "a compressed message")
