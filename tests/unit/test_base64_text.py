"""Base64 is read strictly, and just as Python's own strict reading does."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ensync.base64_text import decode_base64, encode_base64, encode_base64_text

ALMOST = st.text(st.sampled_from("AQgw+/-_=\n é\0"), max_size=12)


@given(st.binary(max_size=200))
def test_what_is_encoded_is_decoded(raw: bytes) -> None:
    text = b2a_base64(raw, newline=False)
    assert encode_base64(raw) == text
    assert encode_base64_text(raw) == text.decode()
    assert decode_base64(text.decode()) == raw


def strictly(text: str) -> bytes | None:
    if len(text) % 4:
        return None  # Python lets more padding pass than there is to be
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


@given(ALMOST)
@example("AAAA=")
@example("A===")
@example("AA=A")
@example("AA==AA==")
@example("=AAA")
@example("AA A")
@example("AA-_")
def test_what_is_not_quite_base64_is_refused(text: str) -> None:
    expected = strictly(text)
    if expected is not None:
        assert decode_base64(text) == expected
        return
    with pytest.raises(ValueError, match=r"."):
        decode_base64(text)


@pytest.mark.parametrize("value", [None, 5, ["QQ=="], {}])
def test_what_is_no_text_is_a_type_error(value: str) -> None:
    with pytest.raises(TypeError):
        decode_base64(value)
