"""The fast codec says and reads what the general one does, for every message."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import betterproto2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ensync.proto.ensync as messages
from ensync.proto.ensync import DeferRequest, EventStreamResponse, PublishEventRequest
from ensync.transports.message_codec import MessageCodec, decoder, encoder, strict_decoder

CLASSES: list[Any] = [
    cls
    for _, cls in inspect.getmembers(messages, inspect.isclass)
    if issubclass(cls, betterproto2.Message) and cls.__module__ == messages.__name__
]
EVERY = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)

texts = st.text(max_size=20) | st.sampled_from(["", "x" * 127, "x" * 128, "ü" * 3000, "\0"])
int64s = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([0, 1, -1, 127, 128])
int32s = st.integers(-(1 << 31), (1 << 31) - 1) | st.sampled_from([0, 1, -1])
values: dict[str, st.SearchStrategy[Any]] = {
    "string": texts,
    "bool": st.booleans(),
    "int64": int64s,
    "int32": int32s,
    "map": st.dictionaries(texts, texts, max_size=3),
}


def fields_of(cls: Any) -> list[tuple[str, Any]]:
    return [(field.name, field.metadata["betterproto"]) for field in dataclasses.fields(cls)]


@st.composite
def instances(draw: st.DrawFn, cls: Any) -> Any:
    chosen = {
        name: draw(
            st.none() | values[meta.proto_type] if meta.optional else values[meta.proto_type]
        )
        for name, meta in fields_of(cls)
    }
    return cls(**chosen)


@EVERY
@given(data=st.data())
def test_what_one_writes_the_other_reads(cls: Any, data: st.DataObject) -> None:
    message = data.draw(instances(cls))
    text = encoder(cls)(message)
    assert text == bytes(message)
    assert decoder(cls)(text) == message == cls.parse(text)


varints = st.integers(0, (1 << 70) - 1) | st.sampled_from(
    [0, 1, (1 << 31), (1 << 63), (1 << 64) - 1]
)


@st.composite
def varint_texts(draw: st.DrawFn, number: int) -> bytes:
    """A number, perhaps longer than need be."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3, 9]))):
        out[-1] |= 128
        out.append(0)
    return bytes(out)


@st.composite
def field_texts(draw: st.DrawFn) -> bytes:
    """One field: known or not, of the right kind or not, whole or not."""
    number, kind = draw(st.integers(0, 20)), draw(st.sampled_from([0, 2, 2, 0, 1, 5, 3, 4, 7]))
    key = draw(varint_texts(number << 3 | kind))
    if kind == 0:
        return key + draw(varint_texts(draw(varints)))
    if kind == 2:
        body = draw(st.binary(max_size=8) | texts.map(str.encode))
        return key + draw(varint_texts(len(body) + draw(st.sampled_from([0, 0, 0, 1])))) + body
    return key + draw(st.binary(max_size=8))


wire_texts = st.lists(field_texts() | st.binary(max_size=3), max_size=6).map(b"".join)


def parsed(cls: Any) -> Any:
    """The general way, but for values of another type, which it takes."""
    types = {"string": str, "map": dict}

    def parse(text: bytes) -> Any:
        message = cls.parse(text)
        for name, meta in fields_of(cls):
            value = getattr(message, name)
            if value is not None and not isinstance(value, types.get(meta.proto_type, int)):
                raise ValueError(name)
        return message

    return parse


def outcome(read: Any, text: bytes) -> Any:
    try:
        message = read(text)
    except Exception as error:  # noqa: BLE001 - its type is what is compared
        return type(error)
    return message, message.__dict__["_unknown_fields"]


@EVERY
@given(text=wire_texts)
@example(text=b"\x0a\x02\xff\xfe")
@example(text=b"\x0a\x01a\x0a\x01b")
@example(text=b"\x0a")
@example(text=b"\x0a\x05abc")
@example(text=b"\x08\x05")
@settings(max_examples=100)
def test_any_text_reads_the_same_or_fails_the_same(cls: Any, text: bytes) -> None:
    assert outcome(decoder(cls), text) == outcome(parsed(cls), text)


@given(text=wire_texts)
def test_what_was_unknown_is_written_again(text: bytes) -> None:
    try:
        message = decoder(EventStreamResponse)(text)
    except Exception:  # noqa: BLE001 - then there is nothing to write
        return
    assert encoder(EventStreamResponse)(message) == bytes(message)


@given(message=instances(DeferRequest), at=st.integers(0, 100))
def test_half_a_text_fails_the_same(message: Any, at: int) -> None:
    text = bytes(message)[:at]
    assert outcome(decoder(DeferRequest), text) == outcome(parsed(DeferRequest), text)


FLAT = [cls for cls in CLASSES if all(meta.proto_type != "map" for _, meta in fields_of(cls))]


@pytest.mark.parametrize("cls", FLAT, ids=lambda cls: cls.__name__)
@given(text=wire_texts)
def test_the_strict_decoder_reads_less_and_nothing_else(cls: Any, text: bytes) -> None:
    try:
        message = strict_decoder(cls)(text)
    except ValueError:
        return
    assert message == cls.parse(text)
    assert not message.__dict__["_unknown_fields"]


@pytest.mark.parametrize(
    "text", [b"\x28\xff\xff\xff\xff\x10", b"\x7a\x01a", b"\x08\x01", b"\x0a\x02a", b"\x0a\x01\xff"]
)
def test_the_strict_decoder_refuses(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        strict_decoder(DeferRequest)(text)


def test_the_codec_of_grpclib() -> None:
    codec, message = MessageCodec(), PublishEventRequest(client_id="c", payload_metadata="")
    text = codec.encode(message, PublishEventRequest)
    assert codec.decode(text, PublishEventRequest) == message
