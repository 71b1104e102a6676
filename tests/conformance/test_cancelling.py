"""A cancelled loop body is neither acknowledged nor discarded: its event comes again, once."""

from __future__ import annotations

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from tests.conformance.harness import PATIENCE, Target, publish_all, take, unsettled

pytestmark = pytest.mark.anyio


async def test_a_scope_around_the_block(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    with anyio.CancelScope() as scope:
        async with client.subscribe(event_name) as subscription:
            async for event in subscription:
                if event.payload == 1:
                    scope.cancel()
                    await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await unsettled(target, event_name) == [1, 2]


async def test_a_scope_inside_the_block(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    async with client.subscribe(event_name) as subscription:
        with anyio.CancelScope() as scope:
            async for event in subscription:
                if event.payload == 1:
                    scope.cancel()
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
    assert await unsettled(target, event_name) == [1, 2]


async def test_after_a_scope_inside_the_block_another_loop_gets_it_once(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    async with client.subscribe(event_name) as subscription:
        with anyio.CancelScope() as scope:
            async for _ in subscription:
                scope.cancel()
                await anyio.sleep_forever()
        events = await take(subscription, 3)
    assert sorted(event.payload for event in events) == [0, 1, 2]
    assert [event.payload for event in events if event.redelivered] == [0]
    assert engine.statistics().acknowledged == 3


async def test_worker_tasks_that_are_cancelled_while_the_block_is_left_normally(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(5))
    in_hand = 0
    all_busy = anyio.Event()

    async def work() -> None:
        nonlocal in_hand
        async for _ in subscription:
            in_hand += 1
            if in_hand == 3:
                all_busy.set()
            await anyio.sleep_forever()

    async with client.subscribe(event_name) as subscription, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(work)
        await all_busy.wait()
        tasks.cancel_scope.cancel()
    assert await unsettled(target, event_name) == [0, 1, 2, 3, 4]


async def test_a_deadline_while_waiting_for_the_next_event_loses_nothing(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], "done")
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            with anyio.CancelScope() as scope:
                async for _ in subscription:
                    scope.deadline = anyio.current_time() + 0.05
            assert scope.cancelled_caught
    # It was acknowledged by asking for the next one, which never came.
    assert await unsettled(target, event_name) == []


async def test_a_subscription_that_has_ended_acknowledges_no_cancelled_body(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    async with client.subscribe(event_name) as subscription:
        with anyio.CancelScope() as scope:
            async for event in subscription:
                if event.payload == 1:
                    await subscription.unsubscribe()
                    scope.cancel()
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
    assert await unsettled(target, event_name) == [1, 2]


async def test_a_body_that_swallows_its_cancellation_goes_on(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    """A scope within the body is the body's own affair."""
    await publish_all(client, event_name, range(2))
    async with client.subscribe(event_name) as subscription:
        async for event in subscription:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            if event.payload == 1:
                break
    assert await unsettled(target, event_name) == []


async def test_a_cancelled_settle_scope_settles_nothing(
    client: ensync.EnSyncClient, target: Target, engine: LocalEngine, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        with anyio.CancelScope() as scope:
            async for event in subscription:
                async with event.settle():
                    scope.cancel()
                    await anyio.sleep_forever()
    statistics = engine.statistics()
    assert (statistics.acknowledged, statistics.deferred, statistics.discarded) == (0, 0, 0)
    assert await unsettled(target, event_name) == [1]


async def test_a_cancelled_handler_settles_nothing(
    client: ensync.EnSyncClient, target: Target, engine: LocalEngine, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    started = anyio.Event()

    async def handler(event: ensync.Event[int]) -> None:
        if event.payload == 1:
            started.set()
        await anyio.sleep_forever()

    async with client.subscribe(event_name) as subscription, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: subscription.for_each(handler, concurrency=2))
        await started.wait()
        tasks.cancel_scope.cancel()
    statistics = engine.statistics()
    assert (statistics.acknowledged, statistics.deferred, statistics.discarded) == (0, 0, 0)
    assert await unsettled(target, event_name) == [0, 1, 2]


async def test_cancelled_on_entering(client: ensync.EnSyncClient, event_name: str) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with client.subscribe(event_name):
            pytest.fail("it was cancelled")
    assert scope.cancelled_caught
    # The name is free again.
    async with client.subscribe(event_name):
        pass


async def test_cancelled_on_connecting(target: Target) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with target.connect():
            pytest.fail("it was cancelled")
    assert scope.cancelled_caught


async def test_a_publish_that_is_cancelled_before_it_begins_is_not_sent(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    client_id = client.client_id
    await client.publish(event_name, [client.app_id], 0)  # the next may leave at once
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.publish(event_name, [client.app_id], 1)
    assert scope.cancelled_caught
    await client.publish(event_name, [client.app_id], 2)
    assert client.client_id == client_id  # it has not cost the link
    assert await unsettled(target, event_name) == [0, 2]
