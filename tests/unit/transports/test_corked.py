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
        self.waiting = b""
        self.transport.source = self.take

    def take(self) -> bytes:
        taken, self.waiting = self.waiting, b""
        return taken

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


def test_what_answers_a_read_goes_together_and_the_next_write_passes_at_once() -> None:
    corked = Corked()
    corked.transport.hold()
    for data in (b"x", b"y"):
        corked.transport.write(data)
    corked.turn()
    assert corked.below.writes == []
    corked.transport.release()
    assert corked.below.writes == [b"xy"]
    corked.transport.write(b"first")
    assert corked.below.writes == [b"xy", b"first"]
    for data in (b"a", b"b"):
        corked.transport.write(data)
    assert corked.below.writes == [b"xy", b"first"]
    corked.turn()
    assert corked.below.writes == [b"xy", b"first", b"ab"]


def test_nothing_overtakes_what_was_gathered() -> None:
    corked = Corked()
    corked.transport.write(b"gathered")
    corked.transport.hold()
    corked.transport.write(b"held")
    corked.transport.release()
    corked.transport.write(b"later")
    corked.turn()
    assert b"".join(corked.below.writes) == b"gatheredheldlater"


def test_what_was_announced_is_taken_when_it_is_written() -> None:
    corked = Corked()
    corked.transport.write(b"before")
    for data in (b"one", b"two"):
        corked.waiting += data
        corked.transport.announce(3)
    assert corked.transport.written == 12
    assert corked.transport.unsent_bytes == 1012
    corked.waiting += b"unannounced"
    corked.turn()
    assert corked.below.writes == [b"beforeonetwounannounced"]
    assert corked.transport.written == len(corked.below.writes[0])
    assert corked.transport.unsent_bytes == 1000


def test_what_was_announced_and_has_gone_meanwhile_is_nothing() -> None:
    corked = Corked()
    corked.transport.announce(100)
    corked.turn()
    assert corked.below.writes == []
    assert corked.transport.written == 0
    assert corked.transport.unsent_bytes == 1000


STEPS = st.none() | st.sampled_from(["hold", "release"]) | st.integers(-100_000, 100_000)


@given(writes=st.lists(STEPS, max_size=20))
def test_all_is_written_in_order(writes: list[int | str | None]) -> None:
    corked, expected, is_held = Corked(), b"", False
    for number, size in enumerate(writes):
        if isinstance(size, str):
            getattr(corked.transport, size)()
            is_held = size == "hold"
        elif size is None:
            corked.turn()
            assert is_held or b"".join(corked.below.writes) == expected
        else:
            data = bytes([number]) * abs(size)
            expected += data
            if size < 0:
                corked.waiting += data
                corked.transport.announce(len(data))
            else:
                corked.transport.write(corked.take() + data)
            assert corked.transport.unsent_bytes < 1000 + (1 << 16)
    corked.transport.close()
    assert b"".join(corked.below.writes) == expected
    assert corked.transport.written == len(expected)


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
