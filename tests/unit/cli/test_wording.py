"""Text that is shown: nothing in it steers the terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensync.cli.wording import counted, json_text, printable

STEERING = "\x07\x1b\x7f\x85\x9b\u061c\u200f\u2028\u202e\u2066"


def test_what_steers_a_terminal_is_escaped() -> None:
    assert printable("red \x1b[31m") == r"red \u001b[31m"
    assert printable("\u202egnp.exe") == r"\u202egnp.exe"
    assert printable("two\nlines, ä 漢 🙂") == "two\nlines, ä 漢 🙂"


@pytest.mark.parametrize("indent", [None, 2])
def test_json_stays_the_same_value(indent: int | None) -> None:
    value = {STEERING: [STEERING, "ä 漢 🙂"]}
    text = json_text(value, indent=indent)
    assert json.loads(text) == value
    assert not set(STEERING) & set(text)
    assert "ä 漢 🙂" in text


@settings(max_examples=50)
@given(st.text())
def test_any_text_is_fit_for_any_output(text: str) -> None:
    assert json.loads(json_text(text)) == text
    shown = json_text(text, encoding="ascii")
    assert json.loads(shown) == text
    assert shown.isascii()
    printable(text).encode()  # no lone surrogate is left


def test_counts_read_well() -> None:
    assert [counted(number, "app") for number in (0, 1, 2, 1000)] == [
        "0 apps",
        "1 app",
        "2 apps",
        "1,000 apps",
    ]
