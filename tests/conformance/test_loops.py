"""Whose event it is: loops in several tasks, over iterators that are kept, and in generators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import anyio
import pytest

import ensync
from ensync.testing import Faults
from tests.conformance.harness import PATIENCE, Target, publish_all, take_one, unsettled
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio

ASYNCIO = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"loop_factory": asyncio.SelectorEventLoop})],
    indirect=True,
    ids=["asyncio"],
)


async def hold_one(events: AsyncIterable[Any], busy: anyio.Event) -> None:
    """A loop that is at work on its first event until it is cancelled."""
    async for _ in events:
        busy.set()
        await anyio.sleep_forever()


@pytest.mark.parametrize("style", ["async for", "anext"])
async def test_a_cancelled_worker_with_an_iterator_of_its_own(
    client: ensync.EnSyncClient, target: Target, event_name: str, style: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    busy = anyio.Event()

    async def work() -> None:
        events = aiter(subscription)
        if style == "anext":
            await anext(events)
            busy.set()
            await anyio.sleep_forever()
        await hold_one(events, busy)

    async with client.subscribe(event_name) as subscription, anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await busy.wait()
        tasks.cancel_scope.cancel()
    assert sorted(await unsettled(target, event_name)) == [0, 1]


async def test_a_cancelled_loop_over_an_iterator_that_is_kept(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    async with client.subscribe(event_name) as subscription:
        events = aiter(subscription)
        with anyio.CancelScope() as scope:
            async for _ in events:
                scope.cancel()
                await anyio.sleep_forever()
    assert sorted(await unsettled(target, event_name)) == [0, 1]


@ASYNCIO
@pytest.mark.parametrize("how", ["timeout", "task group", "cancel"])
async def test_a_loop_over_a_kept_iterator_that_asyncio_itself_cancels(
    client: ensync.EnSyncClient, target: Target, event_name: str, how: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    busy = anyio.Event()
    async with client.subscribe(event_name) as subscription:
        events = aiter(subscription)
        if how == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(hold_one(events, busy), 0.1)
        elif how == "task group":
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(hold_one(events, busy))
                    await busy.wait()
                    raise LookupError
        else:
            task = asyncio.create_task(hold_one(events, busy))
            await busy.wait()
            task.cancel()
            await asyncio.wait([task])
    assert sorted(await unsettled(target, event_name)) == [0, 1]


@ASYNCIO
async def test_a_cancelled_loop_in_a_generator(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    async def payloads() -> AsyncIterator[Any]:
        async for event in subscription:
            yield event.payload

    await publish_all(client, event_name, [0, 1])
    async with client.subscribe(event_name) as subscription:
        with anyio.CancelScope() as scope:
            async for _ in payloads():
                scope.cancel()
                await anyio.sleep_forever()
        # asyncio closes the generator in a task of its own
        await until(lambda: subscription.statistics().in_hand == 0)
    assert sorted(await unsettled(target, event_name)) == [0, 1]


async def test_a_worker_that_is_cancelled_when_the_block_has_been_left(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    busy = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with client.subscribe(event_name) as subscription:
            tasks.start_soon(hold_one, subscription, busy)
            await busy.wait()
        tasks.cancel_scope.cancel()
    assert sorted(await unsettled(target, event_name)) == [0, 1]


async def test_two_tasks_over_one_iterator_acknowledge_what_is_their_own(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    one_is_busy, other_is_busy = anyio.Event(), anyio.Event()

    async def one() -> None:
        async for _ in events:
            one_is_busy.set()
            await other_is_busy.wait()

    async def other() -> None:
        await one_is_busy.wait()
        await hold_one(events, other_is_busy)

    with pytest.raises(LookupError):
        async with client.subscribe(event_name) as subscription:
            events = aiter(subscription)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                tasks.start_soon(other)
                await until(lambda: subscription.statistics().acknowledged == 1)
                tasks.cancel_scope.cancel()
            raise LookupError
    assert await unsettled(target, event_name) == [1]


async def test_two_tasks_that_ask_one_iterator_leave_each_other_s_event_alone(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    one_is_busy, other_is_busy = anyio.Event(), anyio.Event()

    async def hold_next(busy: anyio.Event) -> None:
        await anext(events)
        busy.set()
        await anyio.sleep_forever()

    async with client.subscribe(event_name) as subscription, anyio.create_task_group() as tasks:
        events = aiter(subscription)
        tasks.start_soon(hold_next, one_is_busy)
        await one_is_busy.wait()
        tasks.start_soon(hold_next, other_is_busy)
        await other_is_busy.wait()
        tasks.cancel_scope.cancel()
    assert sorted(await unsettled(target, event_name)) == [0, 1]


async def test_the_event_of_a_task_that_is_over_is_done_with_by_asking_for_the_next(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    with pytest.raises(LookupError):
        async with client.subscribe(event_name) as subscription:
            events = aiter(subscription)

            async def fetch() -> None:
                assert (await anext(events)).payload == 0

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fetch)
            assert (await anext(events)).payload == 1
            await until(lambda: subscription.statistics().acknowledged == 1)
            raise LookupError
    assert await unsettled(target, event_name) == [1]


async def test_a_kept_iterator_goes_on_where_a_loop_over_it_was_broken_off(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1, 2])
    with pytest.raises(LookupError):
        async with client.subscribe(event_name) as subscription:
            events = aiter(subscription)
            async for _ in events:
                break
            assert (await anext(events)).payload == 1
            async for event in events:
                assert event.payload == 2
                break
            raise LookupError
    assert await unsettled(target, event_name) == [2]


@ASYNCIO
async def test_an_event_that_another_task_has_fetched_is_done_with_by_asking_for_the_next(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    async with client.subscribe(event_name) as subscription:
        events = aiter(subscription)
        for number in range(2):
            event = await asyncio.create_task(asyncio.wait_for(anext(events), PATIENCE))
            assert event.payload == number
    assert await unsettled(target, event_name) == []


async def test_nothing_is_handed_out_while_the_block_is_being_left(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    seen: list[int] = []
    busy, go_on, left = anyio.Event(), anyio.Event(), anyio.Event()
    held = faults.hold("acknowledge", count=1)

    async def work() -> None:
        async for event in subscription:
            seen.append(event.payload)
            if event.payload == 1:
                busy.set()
                await go_on.wait()
            elif event.payload == 2:
                await left.wait()

    async def meddle() -> None:
        await until(lambda: subscription._intake._stopped)
        go_on.set()
        await anyio.wait_all_tasks_blocked()
        held.cancel()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            async with client.subscribe(event_name) as subscription:
                tasks.start_soon(work)
                await busy.wait()
                tasks.start_soon(meddle)
            left.set()
    assert seen == [0, 1]


async def test_what_a_kept_iterator_has_in_hand_is_settled_with_the_block(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    async with client.subscribe(event_name) as subscription:
        events = aiter(subscription)
        assert (await anext(events)).payload == 0
        assert (await take_one(subscription)).payload == 1
    assert await unsettled(target, event_name) == []
