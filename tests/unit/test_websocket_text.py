"""The text protocol: what is written can be read again, and nothing else."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ensync.errors import EnSyncInvalidEventError, EnSyncValidationError
from ensync.server.websocket_request import parse_request
from ensync.transports.base import (
    Acknowledge,
    Continue,
    Defer,
    Delivery,
    Discard,
    Heartbeat,
    Identity,
    Outcome,
    Pause,
    Publish,
    Replay,
    Request,
    Unsubscribe,
)
from ensync.transports.records import parse_record
from ensync.websocket_text import (
    MAX_MESSAGE_BYTES,
    Command,
    FrameKind,
    ServerFrame,
    WebSocketTextError,
    encode_connect,
    encode_due,
    encode_identity,
    encode_record,
    encode_request,
    encode_subscribe,
    parse_frame,
    parse_identity,
    parse_key_values,
    read_outcome,
)
from ensync.wire_text import check_wire_text

MEBIBYTE = 1 << 20


def _can_be_sent(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _dumps(value: object, ascii_only: bool, indent: int | None) -> str:
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent)


def _app_id(public_key: bytes) -> str:
    return b64encode(public_key).decode()


# What a forger would try, again and again between ordinary characters.
PIECES = st.sampled_from(
    [
        ";",
        "=:",
        "=",
        ":",
        "\n",
        "\r",
        "\0",
        ";EVENT_NAME=:other",
        "\\",
        '"',
        "}",
        "{",
        ",",
        *"\t\v\f\x1c\x85\u2028\u2029\ufeff",
    ]
) | st.text(max_size=5)
TRICKY = st.lists(PIECES, max_size=6).map("".join)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=6,
)
JSON_TEXT = st.builds(
    _dumps,
    st.dictionaries(TRICKY, JSON_VALUES, max_size=3),
    st.booleans(),
    st.sampled_from([None, 1]),
).filter(_can_be_sent)

APP_IDS = st.binary(min_size=32, max_size=32).map(_app_id)
INT64 = st.integers(-(2**63), 2**63 - 1)
REQUESTS: st.SearchStrategy[Request] = st.one_of(
    st.builds(Publish, TRICKY, TRICKY, TRICKY, JSON_TEXT, st.none() | JSON_TEXT),
    st.builds(Acknowledge, TRICKY, TRICKY, INT64),
    st.builds(Defer, TRICKY, TRICKY, INT64, TRICKY),
    st.builds(Discard, TRICKY, TRICKY, TRICKY),
    st.builds(Replay, TRICKY, TRICKY),
    st.builds(Pause, TRICKY, TRICKY),
    st.builds(Continue, TRICKY),
    st.builds(Unsubscribe, TRICKY),
)


def _expected_fields(request: Request) -> dict[str, str]:
    """What the engine must read, by the table of the protocol."""
    match request:
        case Publish(event_name, recipient, payload, metadata, payload_metadata):
            fields = {"EVENT_NAME": event_name, "PAYLOAD": payload, "DELIVERY_TO": recipient}
            fields["METADATA"] = metadata
            if payload_metadata is not None:
                fields["PAYLOAD_METADATA"] = payload_metadata
        case Acknowledge(event_name, idem, block):
            fields = {"EVENT_IDEM": idem, "BLOCK": str(block), "EVENT_NAME": event_name}
        case Defer(event_name, idem, delay_ms, reason):
            fields = {"EVENT_IDEM": idem, "EVENT_NAME": event_name, "DELAY": str(delay_ms)}
            fields["REASON"] = reason
        case Discard(event_name, idem, reason):
            fields = {"EVENT_IDEM": idem, "EVENT_NAME": event_name, "REASON": reason}
        case Replay(event_name, idem):
            fields = {"EVENT_IDEM": idem, "EVENT_NAME": event_name}
        case Pause(event_name, reason):
            fields = {"EVENT_NAME": event_name, "REASON": reason}
        case Continue(event_name) | Unsubscribe(event_name):
            fields = {"EVENT_NAME": event_name}
        case _:
            raise AssertionError(request)
    return {"CLIENT_ID": "c1", **fields}


def _comparable(fields: dict[str, str]) -> dict[str, Any]:
    json_keys = ("METADATA", "PAYLOAD_METADATA")
    return {key: json.loads(text) if key in json_keys else text for key, text in fields.items()}


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            Publish("n", "r", "cGF5", '{"a":1}', None),
            'PUB;CLIENT_ID=:c1;EVENT_NAME=:n;PAYLOAD=:cGF5;DELIVERY_TO=:r;METADATA=:{"a":1}',
        ),
        (
            Publish("n", "r", "cGF5", "{}", '{"byte_size":2}'),
            "PUB;CLIENT_ID=:c1;EVENT_NAME=:n;PAYLOAD=:cGF5;DELIVERY_TO=:r;METADATA=:{}"
            ';PAYLOAD_METADATA=:{"byte_size":2}',
        ),
        (Acknowledge("n", "i", 0), "ACK;CLIENT_ID=:c1;EVENT_IDEM=:i;BLOCK=:0;EVENT_NAME=:n"),
        (
            Defer("n", "i", 1500, "later"),
            "DEFER;CLIENT_ID=:c1;EVENT_IDEM=:i;EVENT_NAME=:n;DELAY=:1500;REASON=:later",
        ),
        (
            Discard("n", "i", ""),
            "DISCARD;CLIENT_ID=:c1;EVENT_IDEM=:i;EVENT_NAME=:n;REASON=:",
        ),
        (Pause("n", "why"), "PAUSE;CLIENT_ID=:c1;EVENT_NAME=:n;REASON=:why"),
        (Continue("n"), "CONTINUE;CLIENT_ID=:c1;EVENT_NAME=:n"),
        (Replay("n", "i"), "REPLAY;CLIENT_ID=:c1;EVENT_IDEM=:i;EVENT_NAME=:n"),
        (Unsubscribe("n"), "UNSUB;CLIENT_ID=:c1;EVENT_NAME=:n"),
    ],
)
def test_a_request_is_written_as_the_protocol_says(request_: Request, text: str) -> None:
    assert encode_request("c1", request_) == text


def test_connect_and_subscribe_are_written_as_the_protocol_says() -> None:
    assert encode_connect("key-1") == "CONN;ACCESS_KEY=:key-1"
    assert encode_subscribe("c1", "n") == "SUB;CLIENT_ID=:c1;EVENT_NAME=:n"


def test_a_key_that_could_forge_a_field_is_refused_and_not_shown() -> None:
    with pytest.raises(EnSyncValidationError, match="app_key") as caught:
        encode_connect("secret-key;CLIENT_ID=:x")
    assert "secret" not in str(caught.value)


def test_a_heartbeat_has_no_text() -> None:
    with pytest.raises(EnSyncValidationError, match="Heartbeat"):
        encode_request("c1", Heartbeat())


def test_a_request_over_the_limit_is_refused() -> None:
    within = Publish("n", "r", "A" * (MAX_MESSAGE_BYTES - 200), "{}", None)
    assert len(encode_request("c1", within)) <= MAX_MESSAGE_BYTES
    with pytest.raises(EnSyncValidationError, match="too large"):
        encode_request("c1", within._replace(payload="A" * MAX_MESSAGE_BYTES))
    with pytest.raises(EnSyncValidationError, match="too large"):
        encode_request("c1", within._replace(metadata='{"a":"%s"}' % ("é" * 150)))


LARGE = "x" * MEBIBYTE
LARGE_JSON = json.dumps({"m": ";=:\n" * (MEBIBYTE // 16), ";EVENT_NAME=:other": "\u2028"})


@given(REQUESTS)
@example(Publish(LARGE, LARGE, LARGE, LARGE_JSON, LARGE_JSON))
@example(Acknowledge(LARGE, LARGE, -(2**63)))
@example(Defer(LARGE, LARGE, 0, LARGE))
@example(Discard(LARGE, LARGE, LARGE))
@example(Discard("n", "i", f"{LARGE};EVENT_NAME=:other"))
@example(Replay(LARGE, LARGE))
@example(Pause(LARGE, LARGE))
@example(Continue(LARGE))
@example(Unsubscribe(f"{LARGE}\0"))
def test_no_value_can_forge_a_field(request: Request) -> None:
    try:
        text = encode_request("c1", request)
    except EnSyncValidationError:
        in_json = {"METADATA", "PAYLOAD_METADATA"}
        fields = _expected_fields(request)
        assert any(_is_refusable(text) for key, text in fields.items() if key not in in_json)
        return
    read = parse_request(text)
    assert _comparable(dict(read.fields)) == _comparable(_expected_fields(request))
    # An engine that only splits at semicolons must see the same fields.
    assert len(text.split(";")) == len(_expected_fields(request)) + 1


def _is_refusable(value: str) -> bool:
    return ";" in value or value.strip() != value or not value.isprintable()


@given(TRICKY, TRICKY)
def test_what_another_client_writes_is_read_or_refused_whole(name: str, reason: str) -> None:
    text = f"PAUSE;CLIENT_ID=:c1;EVENT_NAME=:{name};REASON=:{reason}"
    try:
        fields = parse_request(text).fields
    except WebSocketTextError:
        assert ";" in name + reason
        return
    if ";" not in name + reason:
        assert fields == {"CLIENT_ID": "c1", "EVENT_NAME": name, "REASON": reason}
    # The rest is a semicolon at the very end: an empty field, which says nothing.
    assert fields["CLIENT_ID"] == "c1"


@given(st.dictionaries(TRICKY, JSON_VALUES, max_size=3))
def test_metadata_of_another_client_may_hold_semicolons(metadata: dict[str, Any]) -> None:
    text = (
        "PUB;CLIENT_ID=:c1;EVENT_NAME=:n;PAYLOAD=:cGF5;DELIVERY_TO=:r"
        f";METADATA=:{json.dumps(metadata)};PAYLOAD_METADATA=:{{}}"
    )
    fields = parse_request(text).fields
    assert json.loads(fields["METADATA"]) == metadata
    assert fields["EVENT_NAME"] == "n"


@given(st.text() | st.builds(";".join, st.lists(TRICKY)) | st.builds("PUB;{}".format, TRICKY))
def test_any_text_is_a_request_or_is_refused(text: str) -> None:
    try:
        parse_request(text)
    except WebSocketTextError:
        return


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown command ''"),
        ("pub;CLIENT_ID=:c", "unknown command 'pub'"),
        ("HELO", "accepted are CONN, PUB"),
        ("CONN", "CONN needs ACCESS_KEY"),
        ("CONN;ACCESS_KEY:k", "KEY=:value"),
        ("CONN;ACCESS_KEY=:a;ACCESS_KEY=:b", "ACCESS_KEY twice"),
        ("SUB;CLIENT_ID=:c;EVENT_NAME=:n;COLOUR=:red", "no field 'COLOUR'"),
        ("SUB;CLIENT_ID=:c;EVENT_NAME=:n;;", "KEY=:value"),
        ("ROLLBACK;CLIENT_ID=:c;EVENT_IDEM=:i;BLOCK=:1;PARTITION_BLOCK=:2", "BLOCK twice"),
        ("ACK;CLIENT_ID=:c;EVENT_IDEM=:i;PARTITION_BLOCK=:2;EVENT_NAME=:n", "no field 'PARTITION"),
        ("PUB;METADATA=:{", "METADATA is not JSON"),
        ("PUB;METADATA=:{NaN}", "METADATA is not JSON"),
        ('PUB;METADATA=:{"a":NaN}', "METADATA is not JSON"),
        ("PUB;METADATA=:" + "[" * 100_000, "METADATA is not JSON"),
        ("PUB;METADATA=:{}x;CLIENT_ID=:c", "goes on after its JSON"),
    ],
)
def test_a_request_that_breaks_the_grammar_is_refused(text: str, reason: str) -> None:
    with pytest.raises(WebSocketTextError) as caught:
        parse_request(text)
    assert reason in str(caught.value)


def test_a_refusal_shows_no_value() -> None:
    for text in ("CONN;ACCESS_KEY=:hidden;ACCESS_KEY=:hidden", "CONN;ACCESS_KEY=hidden"):
        with pytest.raises(WebSocketTextError) as caught:
            parse_request(text)
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("key", ["BLOCK", "PARTITION_BLOCK"])
def test_a_rollback_is_read_in_either_spelling(key: str) -> None:
    read = parse_request(f"ROLLBACK;CLIENT_ID=:c;EVENT_IDEM=:i;{key}=:-7")
    assert read.command is Command.ROLLBACK
    assert read.integer("BLOCK") == -7


@pytest.mark.parametrize("block", ["", "x", "1.0", " 1", "+1", "٣", "9" * 19, "9" * 100_000])
def test_a_block_that_is_no_64_bit_number_is_refused(block: str) -> None:
    read = parse_request(f"ROLLBACK;CLIENT_ID=:c;EVENT_IDEM=:i;BLOCK=:{block}")
    with pytest.raises(WebSocketTextError, match="BLOCK must be a 64-bit whole number"):
        read.integer("BLOCK")


def test_an_optional_field_may_be_left_out() -> None:
    assert parse_request("PAUSE;CLIENT_ID=:c;EVENT_NAME=:n").text("REASON") == ""


# What the engine says


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("+PASS:idem-1", ServerFrame(FrameKind.PASS, "idem-1")),
        ("+PASS:", ServerFrame(FrameKind.PASS, "")),
        ("+PASS", ServerFrame(FrameKind.PASS, "")),
        ("-FAIL:no: never", ServerFrame(FrameKind.FAIL, "no: never")),
        ("+REPLAY:{}", ServerFrame(FrameKind.REPLAY, "{}")),
        ("+RECORD:{}", ServerFrame(FrameKind.RECORD, "{}")),
        ("PING", ServerFrame(FrameKind.PING, "")),
    ],
)
def test_a_frame_is_told_by_its_mark(text: str, frame: ServerFrame) -> None:
    assert parse_frame(text) == frame


@given(st.sampled_from([kind for kind in FrameKind if kind is not FrameKind.PING]), TRICKY)
@example(FrameKind.FAIL, f"no event {LARGE};=:\n\0+PASS:forged")
@example(FrameKind.PASS, "+RECORD:{}")
def test_no_text_makes_a_reply_into_another(kind: FrameKind, text: str) -> None:
    assert parse_frame(kind.frame(text)) == ServerFrame(kind, text)


@given(TRICKY, TRICKY)
@example(LARGE, "reason\n+PASS:forged")
def test_a_reply_says_nothing_but_its_text(idem: str, reason: str) -> None:
    try:
        published = read_outcome(Publish("n", "r", "p", "{}", None), ServerFrame(PASS, idem))
    except WebSocketTextError:
        with pytest.raises(EnSyncValidationError):
            check_wire_text("idem", idem.strip(), minimum=1, maximum=MAX_MESSAGE_BYTES)
    else:
        assert published == Outcome(True, idem=idem.strip())
    for request in (Acknowledge("n", "i", 1), Defer("n", "i", 1, ""), Replay("n", "i")):
        refused = parse_frame(FrameKind.FAIL.frame(reason))
        assert read_outcome(request, refused) == Outcome(False, reason)


def test_the_replay_of_another_event_is_no_answer() -> None:
    other = FrameKind.REPLAY.frame('{"idem":"b","name":"n","payload":"p"}')
    with pytest.raises(WebSocketTextError, match="another event"):
        read_outcome(Replay("n", "a"), parse_frame(other))


@pytest.mark.parametrize("text", ["", "PASS:x", "+pass:x", "hello", "+PASSED:x", " +PASS:x"])
def test_a_frame_without_a_mark_is_refused(text: str) -> None:
    with pytest.raises(WebSocketTextError):
        parse_frame(text)


def test_an_identity_is_read_with_its_padding() -> None:
    frame = ServerFrame(FrameKind.PASS, "{clientId=c-1,clientHash=aGFzaA==,region=eu,odd}")
    assert parse_identity(frame) == Identity("c-1", "aGFzaA==", {"region": "eu"})


@given(
    st.text("abcdef0123456789-", min_size=1),
    APP_IDS,
)
def test_an_identity_survives_the_way(client_id: str, app_id: str) -> None:
    frame = parse_frame(FrameKind.PASS.frame(encode_identity(client_id, app_id)))
    assert parse_identity(frame) == Identity(client_id, app_id, {})


@pytest.mark.parametrize(
    "frame",
    [
        ServerFrame(FrameKind.PASS, ""),
        ServerFrame(FrameKind.PASS, "{clientId=c}"),
        ServerFrame(FrameKind.PASS, "{clientId=,clientHash=h}"),
        ServerFrame(FrameKind.PASS, "{clientId=c;EVENT_NAME=:x,clientHash=h}"),
        ServerFrame(FrameKind.REPLAY, "{clientId=c,clientHash=h}"),
    ],
)
def test_an_identity_that_names_no_client_is_refused(frame: ServerFrame) -> None:
    with pytest.raises(WebSocketTextError, match="CONN"):
        parse_identity(frame)


@given(TRICKY)
def test_any_text_is_read_as_key_values(text: str) -> None:
    assert all(isinstance(value, str) for value in parse_key_values(text).values())


def test_the_first_of_a_repeated_key_counts() -> None:
    assert parse_key_values("{a=1, a=2 ,b= 3=}") == {"a": "1", "b": "3="}


PASS = FrameKind.PASS


@pytest.mark.parametrize(
    ("request_", "frame", "outcome"),
    [
        (Publish("n", "r", "p", "{}", None), (PASS, "i-1"), Outcome(True, idem="i-1")),
        (Acknowledge("n", "i", 1), (PASS, "done"), Outcome(True, "done")),
        (Acknowledge("n", "i", 1), (FrameKind.FAIL, "already"), Outcome(False, "already")),
        (Defer("n", "i", 1, ""), (PASS, encode_due(99)), Outcome(True, encode_due(99), due_ms=99)),
        (Defer("n", "i", 1, ""), (PASS, "fine"), Outcome(True, "fine")),
        (
            Replay("n", "i"),
            (FrameKind.REPLAY, '{"name":"n","idem":"i","payload":"p","block":3}'),
            Outcome(True, delivery=Delivery("i", "n", "p", 3, "", "")),
        ),
        (Replay("n", "i"), (FrameKind.FAIL, "gone"), Outcome(False, "gone")),
    ],
)
def test_a_reply_is_read_by_its_request(
    request_: Request, frame: tuple[FrameKind, str], outcome: Outcome
) -> None:
    assert read_outcome(request_, ServerFrame(*frame)) == outcome


def test_the_reply_to_another_kind_of_request_is_refused() -> None:
    with pytest.raises(WebSocketTextError, match=r"\+PASS in reply to Replay"):
        read_outcome(Replay("n", "i"), ServerFrame(PASS, "x"))
    with pytest.raises(WebSocketTextError, match=r"\+REPLAY in reply to Pause"):
        read_outcome(Pause("n", ""), ServerFrame(FrameKind.REPLAY, "{}"))


def test_a_replay_of_garbage_is_that_call_s_error() -> None:
    with pytest.raises(EnSyncInvalidEventError):
        read_outcome(Replay("n", "i"), ServerFrame(FrameKind.REPLAY, "{garbage"))


DELIVERIES = st.builds(
    Delivery,
    TRICKY.filter(bool),
    TRICKY.filter(bool),
    TRICKY,
    INT64,
    JSON_TEXT,
    TRICKY,
    st.none() | st.integers(0, 2**53),
)


@given(DELIVERIES)
@example(Delivery("i", "n", "A" * MEBIBYTE, 0, json.dumps({"m": '"};' * MEBIBYTE}), "s", 1))
def test_a_record_survives_the_way(delivery: Delivery) -> None:
    frame = parse_frame(FrameKind.RECORD.frame(encode_record(delivery)))
    assert frame.kind is FrameKind.RECORD
    read = parse_record(frame.text)
    assert read._replace(metadata="") == delivery._replace(metadata="")
    assert json.loads(read.metadata) == json.loads(delivery.metadata)


@pytest.mark.parametrize("metadata", ["", "{", 'x", "idem": "forged', "NaN", "[" * 100_000])
def test_metadata_that_is_not_json_stays_a_text(metadata: str) -> None:
    delivery = Delivery("i", "n", "p", 1, metadata, "s", None)
    assert parse_record(encode_record(delivery)) == delivery
