"""Heartbeats over a link without sockets: whom they go to, and how long they may take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
import trio.testing

from ensync.errors import EnSyncConnectionError
from ensync.heartbeats import Heartbeats
from ensync.transports.base import Outcome, Progress
from tests.unit.scripted_link import DONE, ScriptedCarrier, ScriptedLink

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]

INTERVAL, TIMEOUT = 30.0, 10.0


class Link(ScriptedLink):
    """Notes that it was torn down."""

    def __init__(self, *others: ScriptedCarrier) -> None:
        super().__init__()
        self.carriers_now.extend(others)
        self.error: EnSyncConnectionError | None = None
        self.answers: list[Outcome] = []

    def abort(self, error: EnSyncConnectionError) -> None:
        self.error = error

    @property
    def own(self) -> ScriptedCarrier:
        return self.carriers_now[0]


@asynccontextmanager
async def checked(*links: Link) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for link in links:
            heartbeats = Heartbeats(
                link, interval=INTERVAL, timeout=TIMEOUT, answered=link.answers.append
            )
            tasks.start_soon(heartbeats.run)
        await anyio.wait_all_tasks_blocked()
        yield
        tasks.cancel_scope.cancel()


def the_clock() -> trio.testing.MockClock:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    return clock


async def answer_for(link: Link, seconds: float) -> None:
    """Answers each heartbeat as it comes."""
    with anyio.move_on_after(seconds):
        while True:
            link.answer_all(DONE)
            await anyio.sleep(0.5)


async def test_one_in_each_interval() -> None:
    link = Link()
    async with checked(link):
        await answer_for(link, 5 * INTERVAL + 1)
    assert len(link.beats) == 5
    assert link.error is None


async def test_one_that_is_not_answered_in_time() -> None:
    link = Link()
    async with checked(link):
        await anyio.sleep(INTERVAL + TIMEOUT - 1)
        assert link.error is None
        await anyio.sleep(2)
        assert link.error is not None
        assert link.error.code == "link_dead"
    assert link.calls == []


async def test_while_the_process_is_held_up_nobody_is_silent() -> None:
    link = Link()
    async with checked(link):
        await anyio.sleep(INTERVAL + TIMEOUT / 2)
        the_clock().jump(3 * TIMEOUT)
        await anyio.wait_all_tasks_blocked()
        assert link.error is None
        await anyio.sleep(TIMEOUT)
        assert link.error is not None


async def test_a_refusal_is_told() -> None:
    link = Link()
    async with checked(link):
        await anyio.sleep(INTERVAL + 1)
        link.answer(Outcome(False, "unknown client"))
        await anyio.wait_all_tasks_blocked()
    assert [answer.message for answer in link.answers] == ["unknown client"]
    assert link.error is None


async def test_what_arrives_is_a_sign_of_life() -> None:
    link = Link()
    async with checked(link):
        await anyio.sleep(INTERVAL)
        for number in range(20):
            link.own.now = Progress(number, 0, 0)
            await anyio.sleep(TIMEOUT - 2)
        assert link.error is None
        assert len(link.beats) == 1  # the one is still waited for
        await anyio.sleep(TIMEOUT)
        assert link.error is not None


async def test_what_leaves_is_a_sign_of_life_until_the_heartbeat_has_left() -> None:
    link = Link()
    link.own.now = Progress(0, 0, 2_000)
    async with checked(link):
        await anyio.sleep(INTERVAL)
        for departed in range(100, 2_100, 100):
            link.own.now = Progress(0, departed, 2_000 - departed)
            await anyio.sleep(TIMEOUT - 2)
        assert link.error is None
        # Of what was written later, something on the way may take any amount.
        for departed in range(2_100, 2_400, 100):
            link.own.now = Progress(0, departed, 0)
            await anyio.sleep(TIMEOUT / 2)
        assert link.error is not None


async def test_a_full_buffer_that_nothing_leaves_is_no_sign_of_life() -> None:
    link = Link()
    async with checked(link):
        await anyio.sleep(INTERVAL)
        for waiting in range(10):
            link.own.now = Progress(0, 0, waiting * 1_000)
            await anyio.sleep(TIMEOUT / 8)
        assert link.error is not None


async def test_each_carrier_is_asked_and_a_dead_one_is_lost_alone() -> None:
    alive, dead = ScriptedCarrier(), ScriptedCarrier()
    link = Link(alive, dead)
    async with checked(link):
        link.answer_all(DONE)  # what carries something new is asked at once
        link.beats.clear()
        await anyio.sleep(INTERVAL + TIMEOUT / 2)
        assert len(link.beats) == 3
        assert set(link.beats) == set(link.carriers)
        for call, carrier in zip(link.calls, link.beats, strict=True):
            if carrier is not dead:
                call.on_reply(DONE)
        await anyio.sleep(TIMEOUT)
    assert dead.error is not None
    assert dead.error.code == "link_dead"
    assert alive.error is None
    assert link.error is None


async def test_a_carrier_that_is_added_is_asked_within_an_interval() -> None:
    link, added = Link(), ScriptedCarrier()
    async with checked(link):
        await answer_for(link, INTERVAL * 1.5)
        link.carriers_now.append(added)
        await answer_for(link, INTERVAL)
        assert added in link.beats


async def test_links_that_share_a_carrier_ask_it_once_in_an_interval() -> None:
    shared = ScriptedCarrier()
    links = [Link(shared) for _ in range(5)]
    async with checked(*links), anyio.create_task_group() as tasks:
        for link in links:
            tasks.start_soon(answer_for, link, 10 * INTERVAL)
    over_shared = [each for link in links for each in link.beats if each is shared]
    assert 9 <= len(over_shared) <= 11
    for link in links:
        assert 9 <= link.beats.count(link.own) <= 10


async def test_another_link_goes_on_asking_when_one_has_left() -> None:
    shared = ScriptedCarrier()
    stays, leaves = Link(shared), Link(shared)
    async with checked(stays):
        async with checked(leaves), anyio.create_task_group() as tasks:
            tasks.start_soon(answer_for, stays, 2 * INTERVAL)
            tasks.start_soon(answer_for, leaves, 2 * INTERVAL)
        stays.calls.clear()
        await anyio.sleep(INTERVAL + TIMEOUT + 1)
        assert shared.error is not None
