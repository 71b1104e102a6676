"""Payloads, metadata and names: what is written, what is read, what is refused where."""

from __future__ import annotations

import builtins
import datetime
import enum
import json
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from ensync.crypto import SecretKey, seal, seal_hybrid
from ensync.errors import EnSyncInvalidEventError, EnSyncValidationError
from ensync.json_text import MAX_DEPTH
from ensync.payload import (
    MAX_METADATA_BYTES,
    MAX_PAYLOAD_BYTES,
    check_event_name,
    check_idem,
    check_reason,
    decode_metadata,
    decode_payload,
    encode_metadata,
    encode_payload,
    payload_decoder,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Word(str):
    __slots__ = ()


@dataclass
class Line:
    name: str
    price: float


@dataclass
class Order:
    order_id: str
    lines: list[Line] = field(default_factory=list[Line])
    note: str | None = None


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    at: datetime.datetime
    colour: Literal["red", "blue"] = pydantic.Field(default="red", alias="color")


class Typed(TypedDict):
    count: int


class Pair(NamedTuple):
    left: int
    right: object


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def circle() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


# Writing


@given(JSON)
def test_any_json_value_comes_back(value: object) -> None:
    encoded = encode_payload(value)
    assert decode_payload(encoded.text) == value
    assert json.loads(encoded.text) == value


def test_the_text_is_compact_utf_8() -> None:
    text = encode_payload({"a": [1, 2.5], "é": "☕", "n": None, "t": True}).text
    assert text == '{"a":[1,2.5],"é":"☕","n":null,"t":true}'.encode()


CONVERTED: list[tuple[object, object]] = [
    (Line("chair", 2.5), {"name": "chair", "price": 2.5}),
    (
        {"orders": [Order("o-1", [Line("lamp", 1.0)])]},
        {"orders": [{"order_id": "o-1", "lines": [{"name": "lamp", "price": 1.0}], "note": None}]},
    ),
    (
        Model(at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), color="blue"),
        {"at": "2026-01-02T00:00:00Z", "color": "blue"},
    ),
    ({"c": Colour.RED, "s": Size.SMALL}, {"c": "red", "s": 1}),
    ((1, (2,)), [1, [2]]),
    (Pair(1, 2), [1, 2]),
    (OrderedDict(a=Word("w")), {"a": "w"}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    ({Word("key"): 1}, {"key": 1}),
]


@pytest.mark.parametrize(("value", "plain"), CONVERTED)
def test_what_is_nearly_json_is_converted(value: object, plain: object) -> None:
    assert decode_payload(encode_payload(value).text) == plain


REFUSED: list[tuple[object, str]] = [
    (float("nan"), r"^payload is not finite"),
    ({"a": {"b": [0, float("inf")]}}, r"^payload\.a\.b\[1\] is not finite"),
    ({"items": [1, 2, 3, {"price": b"x"}]}, r"^payload\.items\[3\]\.price is bytes"),
    ({"a b": {1, 2}}, r"^payload\['a b'\] is set"),
    ([object()], r"^payload\[0\] is object"),
    (Order("o", [Line("x", float("-inf"))]), r"^payload\.lines\[0\]\.price is not finite"),
    ({"when": datetime.date(2026, 1, 1)}, r"^payload\.when is date"),
    ({"a": {1: 2}}, r"^a key of payload\.a is int"),
    ({None: 1}, r"^a key of payload is NoneType"),
    ({"a": "x\ud800"}, r"^payload\.a holds a lone surrogate"),
    ({"x\udfff": 1}, r"^a key of payload holds a lone surrogate"),
    (Order, r"^payload is the class Order"),
    ({"a": 10**5000}, r"^payload can't be written as JSON"),
    (nested(MAX_DEPTH + 1), r"nested deeper than 100 levels"),
    (circle(), r"nested deeper than 100 levels"),
]


@pytest.mark.parametrize(("value", "problem"), REFUSED)
def test_what_is_not_json_is_named_by_its_path(value: object, problem: str) -> None:
    with pytest.raises(EnSyncValidationError, match=problem) as caught:
        encode_payload(value)
    assert len(str(caught.value)) < 300


NESTS: dict[str, Callable[[object], object]] = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"a": inner},
    "named tuple": lambda inner: Pair(0, inner),
    "mapping": lambda inner: types.MappingProxyType({"a": inner}),
}


@pytest.mark.parametrize("kind", NESTS)
def test_the_depth_is_limited_whatever_is_nested(kind: str) -> None:
    value: object = 0
    for _ in range(MAX_DEPTH):
        value = NESTS[kind](value)
    assert encode_payload(value)
    with pytest.raises(EnSyncValidationError, match="nested deeper than 100 levels"):
        encode_payload(NESTS[kind](value))


def test_a_model_that_can_not_be_dumped_is_refused() -> None:
    class Odd(pydantic.BaseModel):
        value: Any

    with pytest.raises(EnSyncValidationError, match=r"^payload\.odd is a model that can't be"):
        encode_payload({"odd": Odd(value=object())})


def test_no_message_shows_a_value() -> None:
    for value in ({"a": "hunter2\ud800"}, {"a": [b"hunter2"]}, {"hunter": {"x", "hunter2"}}):
        with pytest.raises(EnSyncValidationError) as caught:
            encode_payload(value)
        assert "hunter2" not in str(caught.value)


# Sizes


def payload_of_size(size: int) -> str:
    return "x" * (size - 2)


def test_a_payload_of_the_limit_is_accepted_and_one_more_is_not() -> None:
    assert len(encode_payload(payload_of_size(MAX_PAYLOAD_BYTES)).text) == MAX_PAYLOAD_BYTES
    with pytest.raises(EnSyncValidationError, match="2097153 bytes of JSON; the limit is 2097152"):
        encode_payload(payload_of_size(MAX_PAYLOAD_BYTES + 1))


def test_the_limit_counts_bytes_not_characters() -> None:
    with pytest.raises(EnSyncValidationError, match="the limit is"):
        encode_payload("é" * (MAX_PAYLOAD_BYTES // 2))


def test_what_is_within_the_limit_fits_the_transports_when_sealed() -> None:
    encoded = encode_payload(payload_of_size(MAX_PAYLOAD_BYTES))
    app_ids = [SecretKey.generate().app_id for _ in range(1000)]
    for payload in (seal(encoded.text, app_ids[0]), seal_hybrid(encoded.text, app_ids)):
        assert len(payload) <= 4 * 1024 * 1024


def test_a_description_is_bounded() -> None:
    many = {f"field-{number}": number for number in range(10_000)}
    encoded = encode_payload(many)
    assert json.loads(encoded.payload_metadata) == {"byte_size": len(encoded.text), "skeleton": {}}


# The description in the clear


def test_the_description_names_fields_and_types() -> None:
    value: dict[str, object] = {
        "text": "t",
        "yes": True,
        "small": 2**31 - 1,
        "least": -(2**31),
        "big": 2**31,
        "lower": -(2**31) - 1,
        "ratio": 1.0,
        "object": {"inner": 1},
        "list": [],
        "tuple": (1,),
        "none": None,
        "café": Line("x", 1),
        "enum": Size.SMALL,
    }
    encoded = encode_payload(value)
    assert json.loads(encoded.payload_metadata) == {
        "byte_size": len(encoded.text),
        "skeleton": {
            "text": "string",
            "yes": "boolean",
            "small": "integer",
            "least": "integer",
            "big": "long",
            "lower": "long",
            "ratio": "double",
            "object": "object",
            "list": "array",
            "tuple": "array",
            "none": "null",
            "café": "object",
            "enum": "integer",
        },
    }


def test_objects_of_one_shape_have_one_description_and_others_their_own() -> None:
    assert (
        encode_payload({"a": "x"}).payload_metadata == encode_payload({"a": "y"}).payload_metadata
    )
    for value, kind in ((1, "integer"), (1 << 31, "long"), (1.0, "double"), (True, "boolean")):
        description = json.loads(encode_payload({"a": value}).payload_metadata)
        assert description["skeleton"] == {"a": kind}


@pytest.mark.parametrize("value", [None, 1, "text", [], [{"a": 1}], {}])
def test_what_is_no_object_has_an_empty_skeleton(value: object) -> None:
    encoded = encode_payload(value)
    assert json.loads(encoded.payload_metadata) == {"byte_size": len(encoded.text), "skeleton": {}}


def test_the_description_shows_no_value() -> None:
    assert "hunter2" not in encode_payload({"a": "hunter2", "b": ["hunter2"]}).payload_metadata


# Reading

NOT_JSON = [b"", b"{", b"{'a':1}", b"NaN", b"[Infinity]", b"1 2", b"\xff", b"[" * 100_000, b"tru"]


@pytest.mark.parametrize("text", NOT_JSON)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(EnSyncInvalidEventError, match=r"^the payload is not JSON: ") as caught:
        decode_payload(text)
    assert caught.value.code == "invalid_payload"


def test_an_error_holds_nothing_of_the_payload() -> None:
    for decode, text in [
        (decode_payload, b'{"password": "hunter2"'),
        (decode_payload, b'{"password": "hunter2"}\xff'),
        (payload_decoder(Line), b'{"name": "hunter2", "price": "hunter2"}'),
        (payload_decoder(Line), b'{"name": "hunter2"'),
    ]:
        with pytest.raises(EnSyncInvalidEventError) as caught:
            decode(text)
        error: BaseException | None = caught.value
        while error is not None:
            assert "hunter2" not in repr(error)
            assert "hunter2" not in repr(vars(error))
            error = error.__context__


def test_without_a_type_json_is_given_as_it_is() -> None:
    assert payload_decoder(None)(b'{"a":[1,null]}') == {"a": [1, None]}


def test_a_dataclass_is_made() -> None:
    order = payload_decoder(Order)(b'{"order_id":"o-1","lines":[{"name":"x","price":2}]}')
    assert order == Order("o-1", [Line("x", 2.0)])


def test_a_typed_dict_is_checked() -> None:
    decode = payload_decoder(Typed)
    assert decode(b'{"count":3}') == {"count": 3}
    with pytest.raises(EnSyncInvalidEventError, match=r"not a valid Typed: payload\.count: "):
        decode(b'{"count":"many"}')


def test_a_model_comes_back_as_it_was_published() -> None:
    model = Model(at=datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), color="blue")
    assert payload_decoder(Model)(encode_payload(model).text) == model


def test_the_wrong_fields_are_named() -> None:
    text = b'{"order_id":1,"lines":[{"name":"x","price":"a"},{"name":"y"},{}],"note":7}'
    with pytest.raises(EnSyncInvalidEventError) as caught:
        payload_decoder(Order)(text)
    message = str(caught.value)
    assert message.startswith("the payload is not a valid Order: payload.order_id: ")
    assert "payload.lines[0].price: " in message
    assert "payload.lines[1].price: Field required" in message
    assert message.endswith("; and 3 more")


@pytest.mark.parametrize("payload_type", [5, "Order", object()])
def test_what_is_no_type_is_refused_at_once(payload_type: Any) -> None:
    with pytest.raises(EnSyncValidationError, match="payload_type must be a dataclass"):
        payload_decoder(payload_type)


def test_a_type_whose_names_can_not_be_resolved_is_refused_at_once() -> None:
    @dataclass
    class Inner:
        value: int

    @dataclass
    class Outer:
        inner: Inner

    with pytest.raises(EnSyncValidationError, match="'Inner' is not defined"):
        payload_decoder(Outer)


def test_without_pydantic_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(EnSyncValidationError, match=r"pip install 'ensync\[pydantic\]'"):
        payload_decoder(Order)
    assert payload_decoder(None)(b"1") == 1
    assert encode_payload(Line("x", 1)).text == b'{"name":"x","price":1}'


def test_pydantic_is_not_imported_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *args: Any, **keywords: Any) -> Any:
        assert not name.startswith("pydantic")
        return real_import(name, *args, **keywords)

    real_import = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert payload_decoder(None)(encode_payload(Line("x", 1)).text)


# Metadata


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON))
def test_metadata_comes_back(metadata: dict[str, Any]) -> None:
    assert decode_metadata(encode_metadata(metadata)) == metadata


def test_no_metadata_is_an_empty_object() -> None:
    assert encode_metadata(None) == "{}"
    assert [decode_metadata(text) for text in ("", "{}", "null")] == [{}, {}, {}]


def test_any_mapping_is_metadata() -> None:
    assert encode_metadata(types.MappingProxyType({"a;b": "EVENT_NAME=:x"})) == (
        '{"a;b":"EVENT_NAME=:x"}'
    )


@pytest.mark.parametrize("metadata", [[], "text", 1, [("a", 1)], Line("x", 1)])
def test_what_is_no_mapping_is_no_metadata(metadata: Any) -> None:
    with pytest.raises(EnSyncValidationError, match="metadata must be a mapping"):
        encode_metadata(metadata)


BAD_METADATA: list[tuple[Mapping[Any, object], str]] = [
    ({"a": [float("nan")]}, r"^metadata\.a\[0\] is not finite"),
    ({1: 2}, "^a key of metadata is int"),
    ({"a": "x" * MAX_METADATA_BYTES}, "^metadata is 262152 bytes of JSON; the limit is 262144"),
]


@pytest.mark.parametrize(("metadata", "problem"), BAD_METADATA)
def test_metadata_is_checked_like_a_payload(metadata: Mapping[Any, object], problem: str) -> None:
    with pytest.raises(EnSyncValidationError, match=problem):
        encode_metadata(metadata)


@pytest.mark.parametrize("text", ["{", "[]", "1", '"text"', "NaN", " ", "[" * 100_000])
def test_garbage_metadata_is_refused(text: str) -> None:
    with pytest.raises(EnSyncInvalidEventError, match=r"^the metadata is not ") as caught:
        decode_metadata(text)
    assert caught.value.code == "invalid_metadata"


# Names, ids and reasons

CHECKS = {"event_name": check_event_name, "event_idem": check_idem, "reason": check_reason}
REFUSED_TEXTS = ["a;b", "a\nb", "a\x00", "\x7f", "a\x85b", "a\ud800", "a\u2028b", " a", "a ", "\ta"]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("text", [*REFUSED_TEXTS, "x" * 1025, None, 1, b"a", ["a"]])
def test_what_could_forge_a_field_is_refused(name: str, text: object) -> None:
    with pytest.raises(EnSyncValidationError, match=f"^{name} must "):
        CHECKS[name](text)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("text", ["orders/status/updated", "é ☕", "a=:b", "*", "x" * 512])
def test_an_ordinary_text_is_kept_as_it_is(name: str, text: str) -> None:
    assert CHECKS[name](text) is text


def test_only_a_reason_may_be_empty() -> None:
    assert check_reason("") == ""
    for check in (check_event_name, check_idem):
        with pytest.raises(EnSyncValidationError, match="1 to 512 characters, not 0"):
            check("")


@given(st.text(max_size=600))
def test_a_text_that_passes_can_not_forge_a_field(text: str) -> None:
    try:
        check_event_name(text)
    except EnSyncValidationError:
        return
    assert 1 <= len(text) <= 512
    assert text == text.strip()
    assert ";" not in text
    assert len(text.splitlines()) == 1
    text.encode()
