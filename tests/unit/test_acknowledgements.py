"""The pipeline of acknowledgements, over a link that does as it is told."""

from __future__ import annotations

import anyio
import pytest

from ensync.acknowledgements import (
    MAX_IN_FLIGHT,
    MAX_UNCONFIRMED,
    AcknowledgementPipeline,
)
from ensync.connection import Connection
from ensync.ledger import EventKey
from ensync.transports.base import Outcome
from tests.unit.scripted_link import DONE, ScriptedLink

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]


class Owner:
    """A subscription that notes what it is told."""

    event_name = "orders"
    finished = False

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refused: list[tuple[str, str]] = []

    def acknowledged(self, key: EventKey) -> None:
        self.done.append(key.idem)

    def acknowledgement_refused(self, key: EventKey, reason: str) -> None:
        self.refused.append((key.idem, reason))


class Bench:
    def __init__(self) -> None:
        self.pipeline = AcknowledgementPipeline(timeout=30, clock=anyio.current_time)
        self.owner = Owner()

    def attach(self, link: ScriptedLink) -> Connection:
        connection = Connection()
        connection.link = link
        self.pipeline.attach(connection)
        return connection

    def add(self, *idems: str, owner: Owner | None = None) -> None:
        for idem in idems:
            self.pipeline.add(owner or self.owner, EventKey(idem, 0))


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_confirmed(bench: Bench) -> None:
    link = ScriptedLink()
    bench.attach(link)
    bench.add("a", "b")
    assert link.idems == ["a", "b"]
    link.answer_all(DONE)
    assert bench.owner.done == ["a", "b"]
    assert bench.pipeline.unconfirmed == bench.pipeline.unconfirmed_of(bench.owner) == 0


async def test_refused_and_already(bench: Bench) -> None:
    link = ScriptedLink()
    bench.attach(link)
    bench.add("a", "b")
    link.answer(Outcome(False, "not yours"))
    link.answer(Outcome(False, "it is ALREADY settled"))
    assert bench.owner.refused == [("a", "not yours")]
    assert bench.owner.done == ["b"]


async def test_without_a_link_they_wait_for_one(bench: Bench) -> None:
    bench.add("a", "b")
    link = ScriptedLink()
    bench.attach(link)
    assert link.idems == ["a", "b"]


async def test_after_a_lost_link_they_are_sent_again_in_order(bench: Bench) -> None:
    first, second = ScriptedLink(), ScriptedLink()
    bench.attach(first)
    bench.add("a", "b", "c")
    first.answer(DONE)
    bench.pipeline.detach()
    assert first.calls == []
    bench.add("d")
    bench.attach(second)
    assert second.idems == ["b", "c", "d"]
    second.answer_all(DONE)
    assert bench.owner.done == ["a", "b", "c", "d"]


async def test_a_bounded_number_is_on_the_wire(bench: Bench) -> None:
    link = ScriptedLink()
    bench.attach(link)
    bench.add(*(str(n) for n in range(MAX_IN_FLIGHT + 5)))
    assert len(link.calls) == MAX_IN_FLIGHT
    link.answer(DONE)
    assert len(link.calls) == MAX_IN_FLIGHT
    assert link.idems[-1] == str(MAX_IN_FLIGHT)


@pytest.mark.parametrize("cancelling_ends_it", [False, True])
async def test_what_has_no_answer_in_time_is_sent_again(
    bench: Bench, cancelling_ends_it: bool
) -> None:
    link = ScriptedLink(cancelling_ends_it=cancelling_ends_it)
    bench.attach(link)
    bench.add("a", "b")
    await anyio.sleep(29)
    assert not bench.pipeline.expire(anyio.current_time())
    bench.add("c")
    await anyio.sleep(1)
    assert bench.pipeline.expire(anyio.current_time())
    assert sorted(link.idems) == ["a", "b", "c"]
    link.answer_all(DONE)
    assert sorted(bench.owner.done) == ["a", "b", "c"]
    assert bench.pipeline.unconfirmed == 0


@pytest.mark.parametrize("cancelling_ends_it", [False, True])
async def test_abandoning_forgets_one_owners_only(bench: Bench, cancelling_ends_it: bool) -> None:
    link, other = ScriptedLink(cancelling_ends_it=cancelling_ends_it), Owner()
    bench.attach(link)
    bench.add("a", "b")
    bench.add("c", owner=other)
    assert bench.pipeline.abandon(bench.owner) == 2
    assert bench.pipeline.unconfirmed == bench.pipeline.unconfirmed_of(other) == 1
    link.answer_all(DONE)
    assert (bench.owner.done, other.done) == ([], ["c"])


async def test_a_client_that_the_engine_forgot(bench: Bench) -> None:
    link = ScriptedLink()
    connection = bench.attach(link)
    bench.add("a")
    link.answer(Outcome(False, "unknown client", unauthenticated=True))
    assert connection.error is not None
    assert connection.error.code == "session_unknown"
    assert "unknown client" in str(connection.error)
    assert not connection.was_useful
    assert bench.pipeline.unconfirmed == 1


@pytest.mark.parametrize("answer", [DONE, Outcome(False, "not yours")])
async def test_any_other_answer_is_progress(bench: Bench, answer: Outcome) -> None:
    link = ScriptedLink()
    connection = bench.attach(link)
    bench.add("a", "b")
    assert (connection.was_useful, bench.pipeline.answered) == (False, 0)
    link.answer(answer)
    assert (connection.was_useful, bench.pipeline.answered) == (True, 1)


async def test_only_a_crowded_subscription_waits_for_room(bench: Bench) -> None:
    other = Owner()
    bench.add(*(str(n) for n in range(MAX_UNCONFIRMED)), owner=other)
    assert bench.pipeline.crowded(other)
    assert not bench.pipeline.crowded(bench.owner)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.pipeline.wait_for_room, other)
        await anyio.wait_all_tasks_blocked()
        await bench.pipeline.wait_for_room(bench.owner)
        bench.pipeline.abandon(other)


async def test_unanswered_ones_of_one_subscription_leave_room_for_those_of_others(
    bench: Bench,
) -> None:
    link = ScriptedLink()
    link.places = 80
    bench.attach(link)
    bench.add(*(f"stuck {n}" for n in range(500)))
    assert len(link.calls) == 64  # four fifths of what may be under way
    others = [Owner() for _ in range(8)]
    for other in others:
        bench.add("first", "second", owner=other)
        answered = [call for call in link.calls if call.request.idem == "first"]  # type: ignore[union-attr]
        assert len(answered) == 1
        link.calls.remove(answered[0])
        answered[0].on_reply(DONE)
        assert other.done == ["first"]
    assert link.room > 0


async def test_the_last_place_is_for_who_has_none(bench: Bench) -> None:
    link, other = ScriptedLink(), Owner()
    link.places = 2
    bench.attach(link)
    bench.add("a", "b", "c")
    assert link.idems == ["a"]
    bench.add("d", "e", owner=other)
    assert link.idems == ["a", "d"]
    link.answer(DONE)
    link.answer(DONE)
    assert bench.owner.done == ["a"]
    assert other.done == ["d"]
    assert link.idems == ["b", "e"]


async def test_waiting_until_confirmed(bench: Bench) -> None:
    link = ScriptedLink()
    bench.attach(link)
    bench.add("a", "b")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.pipeline.wait_until_confirmed, bench.owner)
        tasks.start_soon(bench.pipeline.wait_until_all_confirmed)
        await anyio.wait_all_tasks_blocked()
        link.answer(DONE)
        await anyio.wait_all_tasks_blocked()
        link.answer(DONE)
    assert bench.pipeline.unconfirmed == 0


async def test_nobody_waits_for_a_link_that_will_not_be(bench: Bench) -> None:
    bench.add(*map(str, range(MAX_UNCONFIRMED)))
    assert bench.pipeline.crowded(bench.owner)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.pipeline.wait_for_room, bench.owner)
        tasks.start_soon(bench.pipeline.wait_until_confirmed, bench.owner)
        tasks.start_soon(bench.pipeline.wait_until_all_confirmed)
        await anyio.wait_all_tasks_blocked()
        bench.pipeline.close()
    assert bench.pipeline.abandon(bench.owner) == MAX_UNCONFIRMED
