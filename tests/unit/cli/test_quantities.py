"""Durations and sizes on the command line."""

from __future__ import annotations

import pytest
import typer

from ensync.cli.quantities import duration, seconds, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", 45),
        ("30m", 1_800),
        ("12h", 43_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1.5h", 5_400),
        ("7 D", 604_800),
        ("36500d", 3_153_600_000),
        ("0.001s", 0.001),
    ],
)
def test_a_duration(text: str, expected: float) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "d",
        "-1d",
        "0s",
        "36501d",
        "7 parsecs",
        "1h30m",
        "1e3s",
        "nan",
        "inf",
        "٣d",
        "9" * 400,
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="such as 12h or 7d"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("1024", 1_024),
        ("10B", 10),
        ("500MB", 500_000_000),
        ("1GiB", 1 << 30),
        ("1gib", 1 << 30),
        ("1.5 KiB", 1_536),
        ("2kB", 2_000),
        ("1048576TiB", 1 << 60),
    ],
)
def test_a_size(text: str, number: int) -> None:
    assert size(text) == number
    assert isinstance(size(text), int)


@pytest.mark.parametrize(
    "text", ["", "-1", "GiB", "1G", "1 potato", "1048577TiB", "1e9", "9" * 400]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="such as 500MB or 1GiB"):
        size(text)


@pytest.mark.parametrize(("text", "expected"), [("0.1", 0.1), ("30", 30), ("86400", 86_400)])
def test_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0.09", "-1", "86401", "inf", "nan", "1s"])
def test_what_is_no_number_of_seconds(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no number of seconds"):
        seconds(text)
