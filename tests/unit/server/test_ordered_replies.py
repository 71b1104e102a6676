from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensync.server.ordered_replies import OrderedReplies, Place

pytestmark = pytest.mark.anyio


class Wire:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.open = anyio.Event()
        self.open.set()

    async def send(self, text: str) -> None:
        await self.open.wait()
        self.sent.append(text)


async def test_replies_leave_in_the_order_of_their_requests() -> None:
    wire = Wire()
    replies = OrderedReplies(wire.send, limit=10)
    places = [await replies.take_place() for _ in range(3)]
    await replies.fill(places[2], "third")
    await replies.fill(places[1], "second")
    assert wire.sent == []
    await replies.fill(places[0], "first")
    assert wire.sent == ["first", "second", "third"]
    await replies.all_sent()


async def test_a_place_may_stay_without_a_reply() -> None:
    wire = Wire()
    replies = OrderedReplies(wire.send, limit=10)
    silent, answered = await replies.take_place(), await replies.take_place()
    await replies.fill(answered, "second")
    await replies.fill(silent, None)
    assert wire.sent == ["second"]
    await replies.all_sent()


async def test_there_are_no_more_places_than_allowed() -> None:
    wire = Wire()
    replies = OrderedReplies(wire.send, limit=2)
    first, _ = await replies.take_place(), await replies.take_place()
    taken: list[Place] = []

    async def take() -> None:
        taken.append(await replies.take_place())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        assert taken == []
        await replies.fill(first, "first")
    assert len(taken) == 1


async def test_what_is_filled_while_the_wire_is_slow_follows_later() -> None:
    wire = Wire()
    wire.open = anyio.Event()
    replies = OrderedReplies(wire.send, limit=10)
    places = [await replies.take_place() for _ in range(3)]
    async with anyio.create_task_group() as tasks:
        for number, place in enumerate(places):
            tasks.start_soon(replies.fill, place, str(number))
        await anyio.wait_all_tasks_blocked()
        assert wire.sent == []
        wire.open.set()
    assert wire.sent == ["0", "1", "2"]


async def test_a_wire_that_breaks_is_reported_to_who_wrote() -> None:
    async def broken(_: str) -> None:
        raise ConnectionError

    replies = OrderedReplies(broken, limit=10)
    place = await replies.take_place()
    with pytest.raises(ConnectionError):
        await replies.fill(place, "lost")


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_any_order_of_filling_gives_the_order_of_requests(
    order: list[int], silent: set[int]
) -> None:
    wire_texts: list[str] = []

    async def send(text: str) -> None:
        wire_texts.append(text)

    async def fill_all() -> None:
        replies = OrderedReplies(send, limit=8)
        places = [await replies.take_place() for _ in range(8)]
        for number in order:
            await replies.fill(places[number], None if number in silent else str(number))

    anyio.run(fill_all)
    assert wire_texts == [str(number) for number in range(8) if number not in silent]
