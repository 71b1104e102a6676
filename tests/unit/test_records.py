from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensync.errors import EnSyncInvalidEventError
from ensync.transports.base import Delivery
from ensync.transports.records import parse_record, parse_replay_data

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAME_KEYS = ["name", "eventName", "event_name"]
IDEM_KEYS = ["idem", "id", "event_idem", "eventIdem"]
OTHER_KEYS = ["block", "partitionBlock", "payload", "loggedAt", "logged_at", "metadata", "sender"]
KNOWN_KEYS = st.sampled_from([*NAME_KEYS, *IDEM_KEYS, *OTHER_KEYS])


def test_a_record_of_the_websocket_protocol_is_read() -> None:
    text = (
        '{"name":"orders","idem":"i1","block":7,"payload":"cGF5","loggedAt":1700000000123,'
        '"metadata":{"a":1},"sender":"c2VuZGVy"}'
    )
    assert parse_record(text) == Delivery(
        "i1", "orders", "cGF5", 7, '{"a":1}', "c2VuZGVy", 1700000000123
    )


@pytest.mark.parametrize("name_key", ["name", "event_name", "eventName"])
@pytest.mark.parametrize("idem_key", ["idem", "id", "event_idem", "eventIdem"])
@pytest.mark.parametrize("block_key", ["block", "partition_block", "partitionBlock"])
@pytest.mark.parametrize("block", [42, "42"])
def test_every_spelling_of_a_key_is_read(
    name_key: str, idem_key: str, block_key: str, block: int | str
) -> None:
    delivery = parse_record({name_key: "n", idem_key: "i", block_key: block, "payload": "p"})
    assert delivery == Delivery("i", "n", "p", 42, "", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), ("", ""), ('{"a": 1}', '{"a": 1}'), ({"a": [1]}, '{"a":[1]}'), ("{", "{")],
)
def test_metadata_is_handed_on_as_text(value: Any, text: str) -> None:
    assert parse_record({"name": "n", "idem": "i", "metadata": value}).metadata == text


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [(5, 5), ("5", 5), (5.75, 5), (None, None), (True, None), ("today", None), (1e999, None)],
)
def test_the_time_is_read_where_there_is_one(value: Any, milliseconds: int | None) -> None:
    for key in ("loggedAt", "logged_at"):
        assert parse_record({"name": "n", "idem": "i", key: value}).logged_at_ms == milliseconds


def test_a_missing_block_is_block_0() -> None:
    assert parse_record({"name": "n", "idem": "i"}).block == 0


@pytest.mark.parametrize("block", [2**63 - 1, -(2**63), str(2**63 - 1), str(-(2**63))])
def test_a_block_may_be_any_64_bit_integer(block: int | str) -> None:
    assert parse_record({"name": "n", "idem": "i", "block": block}).block == int(block)


@pytest.mark.parametrize(
    "block", [2**63, -(2**63) - 1, "9" * 5000, "", "x", "1.5", 1.5, True, [], "٣", "--1", " 1"]
)
def test_a_block_that_can_not_be_one_is_refused(block: Any) -> None:
    with pytest.raises(EnSyncInvalidEventError, match="block"):
        parse_record({"name": "n", "idem": "i", "block": block})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"block":' + "9" * 10_000 + "}", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"idem":"i"}', "event_name"),
        ('{"name":"n"}', "event_idem"),
        ('{"name":"","idem":"i"}', "event_name"),
        ('{"name":"n","idem":5}', "event_idem"),
    ],
)
def test_a_record_that_can_not_be_routed_or_settled_is_refused(text: str, reason: str) -> None:
    with pytest.raises(EnSyncInvalidEventError, match=reason):
        parse_record(text)


def test_replay_data_may_be_the_payload_itself() -> None:
    delivery = parse_replay_data("cGF5bG9hZA==", event_name="n", idem="i")
    assert delivery == Delivery("i", "n", "cGF5bG9hZA==", 0, "", "")


def test_replay_data_may_be_a_record() -> None:
    data = json.dumps(
        {"eventIdem": "i", "eventName": "n", "payload": "p", "partitionBlock": "9", "sender": "s"}
    )
    assert parse_replay_data(f" {data}", event_name="x", idem="y") == Delivery(
        "i", "n", "p", 9, "", "s"
    )


def test_what_a_replayed_record_leaves_out_was_asked_for() -> None:
    delivery = parse_replay_data('{"payload":"p"}', event_name="n", idem="i")
    assert delivery == Delivery("i", "n", "p", 0, "", "")


@pytest.mark.parametrize("data", ["", "  \n", "{not json"])
def test_replay_data_that_is_no_event_is_refused(data: str) -> None:
    with pytest.raises(EnSyncInvalidEventError):
        parse_replay_data(data, event_name="n", idem="i")


@given(st.dictionaries(KNOWN_KEYS | st.text(), JSON_VALUES, max_size=8))
def test_any_record_is_read_or_refused(fields: dict[str, Any]) -> None:
    text = json.dumps(fields)
    try:
        delivery = parse_record(text)
    except EnSyncInvalidEventError:
        return
    assert delivery.event_name
    assert delivery.idem
    assert -(2**63) <= delivery.block < 2**63


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(EnSyncInvalidEventError):
        parse_record(text)
    with suppress(EnSyncInvalidEventError):
        parse_replay_data(text, event_name="n", idem="i")
