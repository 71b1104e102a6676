"""Small writes are gathered, none is lost or late, and what is left is forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensync.transports.corked import CorkedTransport


class Recorder:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = ""
        self.paused = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = "close"

    def abort(self) -> None:
        self.closed = "abort"

    def is_closing(self) -> bool:
        return bool(self.closed)

    def pause_reading(self) -> None:
        self.paused = True

    def get_write_buffer_size(self) -> int:
        return 1000

    def get_extra_info(self, name: str, default: object = None) -> object:
        return name, default


class Corked:
    def __init__(self) -> None:
        self.below = Recorder()
        self.soon: list[Callable[[], object]] = []
        self.transport = CorkedTransport(self.below, self.soon.append)

    def turn(self) -> None:
        soon, self.soon[:] = list(self.soon), []
        for callback in soon:
            callback()


def test_writes_of_a_turn_are_one() -> None:
    corked = Corked()
    for data in (b"a", b"b", b"c"):
        corked.transport.write(data)
    assert corked.below.writes == []
    assert corked.transport.unsent_bytes == 1003
    corked.turn()
    assert corked.below.writes == [b"abc"]
    assert corked.transport.unsent_bytes == 1000


def test_one_write_passes_at_once_and_those_after_it_are_gathered() -> None:
    corked = Corked()
    corked.transport.pass_next()
    corked.transport.write(b"first")
    assert corked.below.writes == [b"first"]
    for data in (b"a", b"b"):
        corked.transport.write(data)
    assert corked.below.writes == [b"first"]
    corked.turn()
    assert corked.below.writes == [b"first", b"ab"]


def test_nothing_overtakes_what_was_gathered() -> None:
    corked = Corked()
    corked.transport.write(b"gathered")
    corked.transport.pass_next()
    corked.transport.write(b"later")
    assert corked.below.writes == []
    corked.turn()
    assert corked.below.writes == [b"gatheredlater"]


@given(writes=st.lists(st.none() | st.just("pass") | st.integers(0, 100_000), max_size=20))
def test_all_is_written_in_order(writes: list[int | str | None]) -> None:
    corked, expected = Corked(), b""
    for number, size in enumerate(writes):
        if isinstance(size, str):
            corked.transport.pass_next()
        elif size is None:
            corked.turn()
            assert b"".join(corked.below.writes) == expected
        else:
            corked.transport.write(bytes([number]) * size)
            expected += bytes([number]) * size
            assert corked.transport.unsent_bytes < 1000 + (1 << 16)
    corked.transport.close()
    assert b"".join(corked.below.writes) == expected


@pytest.mark.parametrize("end", ["abort", "freeze"])
def test_what_is_left_is_forgotten(end: str) -> None:
    corked = Corked()
    corked.transport.write(b"secret")
    getattr(corked.transport, end)()
    assert corked.transport.unsent_bytes == 1000
    corked.transport.write(b"late")
    corked.turn()
    assert corked.below.writes == []
    assert corked.below.paused == (end == "freeze")


def test_closing_sends_what_was_written_and_no_more() -> None:
    corked = Corked()
    corked.transport.write(b"last")
    corked.transport.close()
    corked.transport.write(b"late")
    corked.turn()
    assert corked.below.writes == [b"last"]
    assert corked.transport.is_closing()
    corked.transport.freeze()
    assert not corked.below.paused


def test_the_transport_below_is_asked() -> None:
    assert Corked().transport.get_extra_info("socket", 1) == ("socket", 1)
