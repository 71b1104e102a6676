"""The buffer of a subscription: bounded, in order, and nothing is ever lost between two hands."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensync.errors import EnSyncConnectionError, EnSyncError, EnSyncSubscriptionError
from ensync.event_buffer import Arrived, Held
from ensync.intake import Intake
from ensync.ledger import EventKey, Place
from ensync.session import Session
from ensync.transports.base import Acknowledge, Delivery, Discard, StreamEnded
from tests.unit.scripted_link import ScriptedEngine, ScriptedStream
from tests.unit.scripted_program import NO_SIDE, SETTINGS

pytestmark = pytest.mark.anyio

NAME = "orders"
ASYNCIO = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {})], ids=["asyncio"], scope="module", indirect=True
)


def delivery(number: int) -> Delivery:
    return Delivery(str(number), NAME, "", number, "{}", "")


def key(number: int) -> EventKey:
    return EventKey(str(number), number)


def held(arrived: Arrived | None) -> Held:
    assert arrived is not None
    return arrived.held


class Bench:
    """An intake that is registered with a scripted engine."""

    def __init__(self, size: int, *, streams_are_apart: bool = True) -> None:
        self.engine = ScriptedEngine(streams_are_apart=streams_are_apart)
        self.session = Session(NO_SIDE, self.engine.open_link, "key", SETTINGS, lambda: 0.5)
        self.intake = Intake(self.session, NAME, size)
        self.got: list[int] = []

    async def open(self) -> None:
        await self.session.open()
        assert self.session.current is not None
        stream = await self.engine.link.subscribe(NAME, self.intake.deliver, self.ended)
        self.intake.attached(self.session.current, stream)

    def ended(self, ended: StreamEnded) -> None:
        raise AssertionError(ended)

    @property
    def stream(self) -> ScriptedStream:
        return self.engine.link.streams[NAME]

    @property
    def is_held_back(self) -> bool:
        return self.stream.held or NAME in self.engine.paused

    def deliver(self, *numbers: int) -> None:
        for number in numbers:
            self.stream.on_delivery(delivery(number))

    async def take(self) -> None:
        arrived = await self.intake.take()
        if arrived is not None:
            self.got.append(arrived.delivery.block)

    def is_nowhere_twice(self, delivered: int) -> bool:
        """Whether each event was taken or is in the buffer, and none is both."""
        return len(set(self.got)) == len(self.got) == delivered - self.intake.buffered


@asynccontextmanager
async def opened(size: int, *, streams_are_apart: bool = True) -> AsyncIterator[Bench]:
    bench = Bench(size, streams_are_apart=streams_are_apart)
    try:
        await bench.open()
        yield bench
    finally:
        bench.intake.finish()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with opened(1_000) as bench:
        yield bench


class Use:
    """Random use of an intake, beside a model of it."""

    def __init__(self, data: st.DataObject, bench: Bench, size: int) -> None:
        self.data, self.bench, self.size = data, bench, size
        self.intake = bench.intake
        self.buffer: deque[int] = deque()
        self.in_hand: list[int] = []
        self.held: dict[int, Held] = {}
        self.given_back: list[int] = []
        self.delivered = 0
        self.is_held = False

    async def run(self) -> None:
        steps = [self.deliver, self.deliver, self.again, self.take, self.put_back]
        steps += [self.acknowledge, self.give_back, self.pause, self.resume]
        for step in self.data.draw(st.lists(st.sampled_from(steps), max_size=60)):
            await step()
            self.check()

    async def deliver(self) -> None:
        if not self.bench.is_held_back:  # this engine does as it is told
            self.bench.deliver(self.delivered)
            self.arrived(self.delivered)
            self.delivered += 1

    async def again(self) -> None:
        """Whatever was delivered before arrives again, as after a lost link."""
        if self.delivered and not self.bench.is_held_back:
            number = self.data.draw(st.integers(0, self.delivered - 1))
            self.bench.deliver(number)
            if number in self.given_back:
                self.given_back.remove(number)
                self.arrived(number)

    def arrived(self, number: int) -> None:
        self.buffer.append(number)
        self.is_held = self.is_held or len(self.buffer) >= self.size

    async def take(self) -> None:
        if not self.buffer or self.intake.user_paused:
            return
        arrived = await self.intake.take()
        assert arrived is not None
        assert arrived.delivery.block == self.buffer.popleft()
        self.in_hand.append(arrived.delivery.block)
        self.held[arrived.delivery.block] = arrived.held
        self.is_held = self.is_held and len(self.buffer) > self.size // 2

    async def put_back(self) -> None:
        if (number := self.from_hand()) is not None:
            self.intake.put_back(self.held[number])
            self.buffer.append(number)

    async def acknowledge(self) -> None:
        if (number := self.from_hand()) is not None:
            self.intake.acknowledge(self.held[number])

    async def give_back(self) -> None:
        if (number := self.from_hand()) is not None:
            self.intake.move(key(number), Place.GIVEN_BACK)
            self.given_back.append(number)

    def from_hand(self) -> int | None:
        if not self.in_hand:
            return None
        return self.in_hand.pop(self.data.draw(st.integers(0, len(self.in_hand) - 1)))

    async def pause(self) -> None:
        self.intake.paused_by_user()

    async def resume(self) -> None:
        if self.intake.engine_must_stay_paused:
            self.intake.continued_here()
        else:
            self.intake.continued_by_user()

    def check(self) -> None:
        assert (self.intake.buffered, self.intake.in_hand) == (len(self.buffer), len(self.in_hand))
        if self.bench.engine.streams_are_apart:
            assert self.bench.stream.held == self.is_held


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(data=st.data())
def test_it_does_as_its_model(backend: str, data: st.DataObject) -> None:
    async def run() -> None:
        size, streams_are_apart = data.draw(st.integers(1, 6)), data.draw(st.booleans())
        async with opened(size, streams_are_apart=streams_are_apart) as bench:
            await Use(data, bench, size).run()

    anyio.run(run, backend=backend)


@pytest.mark.parametrize("streams_are_apart", [True, False], ids=["by stream", "by pause"])
@pytest.mark.parametrize("size", [1, 2, 7])
async def test_an_engine_that_is_held_back_never_exceeds_the_bound(
    size: int, streams_are_apart: bool
) -> None:
    async with opened(size, streams_are_apart=streams_are_apart) as bench:
        delivered, most = 0, 0
        for _ in range(20):
            while not bench.is_held_back:
                bench.deliver(delivered)
                delivered += 1
            most = max(most, bench.intake.buffered)
            while bench.is_held_back:
                await bench.take()
            assert bench.intake.buffered == size // 2
        assert most == size
        assert bench.got == list(range(len(bench.got)))
        assert bench.is_nowhere_twice(delivered)


async def test_an_engine_that_does_not_stop_loses_its_link(bench: Bench) -> None:
    bench.deliver(*range(11_000))
    assert bench.engine.link.is_open
    bench.deliver(11_000)
    assert bench.session.current is not None
    assert (await bench.session.current.wait_lost()).code == "flooded"


def large(number: int) -> Delivery:
    return delivery(number)._replace(payload="x" * (4 << 20), metadata="")


async def test_a_few_large_events_fill_the_buffer_too(bench: Bench) -> None:
    for number in range(4):
        assert not bench.is_held_back
        bench.stream.on_delivery(large(number))
    for _ in range(2):
        assert bench.is_held_back
        await bench.take()
    assert not bench.is_held_back
    bench.intake.move(key(0), Place.GIVEN_BACK)
    bench.stream.on_delivery(large(0))
    bench.stream.on_delivery(large(4))
    assert bench.is_held_back


async def test_what_was_discarded_and_comes_again_is_discarded_until_the_engine_says_so(
    bench: Bench,
) -> None:
    bench.deliver(0)
    await bench.take()
    bench.intake.move(key(0), Place.DISCARDED)
    bench.engine.replies[Discard].append(EnSyncConnectionError("not now"))
    bench.deliver(0)
    assert bench.engine.count(Discard) == 1
    for _ in range(2):
        bench.intake.retry()
        assert bench.engine.count(Discard) == 2
    assert bench.intake.buffered == 0


async def test_an_engine_that_does_not_stop_loses_its_link_over_bytes_too(bench: Bench) -> None:
    bench.deliver(*range(1000))
    assert bench.is_held_back
    for number in range(1000, 1064):
        bench.stream.on_delivery(large(number))
    assert bench.engine.link.is_open
    bench.stream.on_delivery(large(1064))
    assert bench.session.current is not None
    assert (await bench.session.current.wait_lost()).code == "flooded"


async def test_what_is_put_back_comes_again_and_says_so(bench: Bench) -> None:
    bench.deliver(0, 1)
    bench.intake.put_back(held(await bench.intake.take()))
    taken = [await bench.intake.take() for _ in range(2)]
    assert [(a.delivery.block, a.redelivered) for a in taken if a] == [(1, False), (0, True)]


async def test_what_is_not_in_hand_is_not_put_back(bench: Bench) -> None:
    bench.deliver(0, 1)
    taken = held(await bench.intake.take())
    bench.intake.acknowledge(taken)
    bench.intake.put_back(taken)
    for number in (1, 2):
        bench.intake.put_back(Held(key(number)))
    assert bench.intake.buffered == 1
    assert bench.engine.count(Acknowledge) == 1


async def test_what_went_back_and_is_in_another_hand_is_that_one_s(bench: Bench) -> None:
    bench.deliver(0)
    first = held(await bench.intake.take())
    bench.intake.put_back(first)
    second = held(await bench.intake.take())
    bench.intake.acknowledge(first)
    bench.intake.put_back(first)
    assert bench.engine.count(Acknowledge) == 0
    assert (bench.intake.in_hand, bench.intake.buffered) == (1, 0)
    bench.intake.acknowledge(second)
    assert bench.engine.count(Acknowledge) == 1


async def test_what_the_engine_does_not_settle_is_shown_once_more(bench: Bench) -> None:
    bench.deliver(0)
    for redelivered in (False, True):
        arrived = await bench.intake.take()
        assert arrived is not None
        assert arrived.redelivered is redelivered
        bench.intake.move(arrived.held.key, Place.ACKNOWLEDGING)
        bench.intake.acknowledgement_refused(arrived.held.key, "no")
    assert bench.intake.buffered == 0
    assert bench.intake.place(key(0)) is Place.GIVEN_BACK


async def test_several_takers_share_what_arrives(bench: Bench) -> None:

    async def take_all() -> None:
        while len(bench.got) < 300:
            await bench.take()
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(7):
            tasks.start_soon(take_all)
        for start in range(0, 300, 10):
            bench.deliver(*range(start, start + 10))
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(10):
            while len(bench.got) < 300:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert sorted(bench.got) == list(range(300))


# Cancelled takers


@pytest.mark.parametrize("cancel_first", [True, False])
@pytest.mark.parametrize("turns", range(4))
async def test_a_taker_that_is_cancelled_as_an_event_arrives(
    bench: Bench, turns: int, cancel_first: bool
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.take)
        await anyio.wait_all_tasks_blocked()
        if cancel_first:
            tasks.cancel_scope.cancel()
        bench.deliver(0)
        if not cancel_first:
            with anyio.CancelScope(shield=True):
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert bench.is_nowhere_twice(1)


@ASYNCIO
@pytest.mark.parametrize("cancel_first", [True, False])
@pytest.mark.parametrize("turns", range(4))
async def test_a_taker_that_asyncio_cancels_as_an_event_arrives(
    bench: Bench, turns: int, cancel_first: bool
) -> None:
    task = asyncio.create_task(bench.take())
    await anyio.wait_all_tasks_blocked()
    if cancel_first:
        task.cancel()
    bench.deliver(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert bench.is_nowhere_twice(1)
    # Whoever asks next gets it.
    if bench.intake.buffered:
        await bench.take()
    assert bench.got == [0]


@given(data=st.data())
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_takers_that_come_and_are_cancelled(backend: str, data: st.DataObject) -> None:
    async def run() -> None:
        async with opened(1_000) as bench:
            await use(bench)

    async def use(bench: Bench) -> None:
        scopes: list[anyio.CancelScope] = []
        delivered = 0

        async def take_in(scope: anyio.CancelScope) -> None:
            with scope:
                await bench.take()

        async with anyio.create_task_group() as tasks:
            for step in data.draw(st.lists(st.sampled_from("tddcw"), max_size=30)):
                if step == "t":
                    scopes.append(anyio.CancelScope())
                    tasks.start_soon(take_in, scopes[-1])
                elif step == "d":
                    bench.deliver(delivered)
                    delivered += 1
                elif step == "c" and scopes:
                    data.draw(st.sampled_from(scopes)).cancel()
                else:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert bench.is_nowhere_twice(delivered)
        assert bench.got == sorted(bench.got)

    anyio.run(run, backend=backend)


# The end


async def outcomes_of_takers(bench: Bench, count: int, error: EnSyncError | None) -> list[Any]:
    outcomes: list[Any] = []

    async def take() -> None:
        try:
            outcomes.append(await bench.intake.take())
        except EnSyncError as failure:
            outcomes.append(failure)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            bench.intake.finish() if error is None else bench.intake.failed(error)
    return outcomes


async def test_a_failure_wakes_everybody_with_an_error_of_their_own(bench: Bench) -> None:
    cause = OSError("the wire broke")
    error = EnSyncConnectionError("gave up", code="gave_up", retryable=False)
    error.__cause__ = cause
    outcomes = await outcomes_of_takers(bench, 5, error)
    assert len({id(outcome) for outcome in outcomes}) == 5
    for outcome in outcomes:
        assert type(outcome) is EnSyncConnectionError
        assert (outcome.code, outcome.event_name, outcome.retryable) == ("gave_up", NAME, False)
        assert outcome.__cause__ is cause
    with pytest.raises(EnSyncConnectionError, match="gave up"):
        bench.intake.check_open()


async def test_leaving_wakes_everybody_quietly_and_drops_what_is_buffered(bench: Bench) -> None:
    assert await outcomes_of_takers(bench, 5, None) == [None] * 5
    bench.deliver(0)
    assert await bench.intake.take() is None
    with pytest.raises(EnSyncSubscriptionError, match="was left"):
        bench.intake.check_open()


async def test_the_first_end_counts(bench: Bench) -> None:
    bench.intake.finish()
    bench.intake.failed(EnSyncConnectionError("too late"))
    assert await bench.intake.take() is None


async def test_a_pause_keeps_what_is_buffered_from_takers(bench: Bench) -> None:
    bench.deliver(0)
    bench.intake.paused_by_user()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.take)
        await anyio.wait_all_tasks_blocked()
        assert bench.got == []
        bench.intake.continued_by_user()
    assert bench.got == [0]
