"""What comes again is recognised, and is not shown again when it was settled.

After a lost link an engine hands out again all that it does not know to be settled:
what waits in the buffer, what is in hand, and what it was not told about in time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import (
    PATIENCE,
    Target,
    opened,
    publish_all,
    take,
    take_one,
    unsettled,
)
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio

AT_ONCE = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=None)
RECONNECTS = 20

Subscription = ensync.Subscription[int]


@asynccontextmanager
async def subscribed(
    target: Target, event_name: str, *, auto_ack: bool = False
) -> AsyncIterator[tuple[ensync.EnSyncClient, Subscription]]:
    with anyio.fail_after(PATIENCE):
        async with (
            target.connect(reconnect=AT_ONCE) as client,
            client.subscribe(event_name, auto_ack=auto_ack) as subscription,
        ):
            yield client, subscription


async def reconnected(faults: Faults) -> None:
    """Cuts the connection, and waits until its successor has subscribed."""
    before = faults.calls("subscribe")
    faults.abort_connections()
    await faults.wait_calls("subscribe", before + 1)


async def the_last(client: ensync.EnSyncClient, subscription: Subscription) -> list[int]:
    """What is shown before an event that is published now."""
    await client.publish(subscription.event_name, [client.app_id], -1)
    payloads: list[int] = []
    async for event in subscription:
        await event.ack()
        if event.payload == -1:
            return payloads
        payloads.append(event.payload)
    raise AssertionError


async def test_in_the_buffer_in_hand_and_lately_settled(
    target: Target, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    async with subscribed(target, event_name) as (client, subscription):
        await publish_all(client, event_name, range(6))
        acknowledged, discarded, in_hand = await take(subscription, 3)
        await acknowledged.ack()
        await discarded.discard()
        await until(lambda: subscription.statistics().buffered == 3)
        await reconnected(faults)
        # The one in hand and the three in the buffer have come again.
        await until(lambda: subscription.statistics().duplicates == 4)
        await in_hand.ack()
        assert await the_last(client, subscription) == [3, 4, 5]
    statistics = engine.statistics()
    assert (statistics.acknowledged, statistics.discarded) == (6, 1)
    assert statistics.redelivered == 4


async def test_an_event_that_is_sent_twice_is_shown_once(
    target: Target, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    faults.duplicate_delivery(copies=3, count=5)
    async with subscribed(target, event_name) as (client, subscription):
        await publish_all(client, event_name, range(5))
        assert await the_last(client, subscription) == [0, 1, 2, 3, 4]
    assert subscription.statistics().duplicates == 10
    assert engine.statistics().acknowledged == 6


@pytest.mark.parametrize("after_commit", [False, True], ids=["before commit", "after commit"])
async def test_acknowledgements_that_are_lost_with_the_link_are_sent_again(
    target: Target, engine: LocalEngine, faults: Faults, event_name: str, after_commit: bool
) -> None:
    held = faults.hold("acknowledge", after_commit=after_commit, count=None)
    async with subscribed(target, event_name, auto_ack=True) as (client, subscription):
        await publish_all(client, event_name, range(4))
        # Asking for the fourth acknowledges the third.
        await take(subscription, 4)
        await faults.wait_calls("acknowledge", 1)
        faults.abort_connections()
        held.cancel()
        await faults.wait_calls("subscribe", 2)
        await until(lambda: subscription.statistics().acknowledged == 3)
        await client.publish(event_name, [client.app_id], 4)
        assert (await take_one(subscription)).payload == 4
    statistics = subscription.statistics()
    assert (statistics.acknowledged, statistics.refused, statistics.unconfirmed) == (5, 0, 0)
    assert engine.statistics().acknowledged == 5
    assert await unsettled(target, event_name) == []


@pytest.mark.parametrize("after_commit", [False, True], ids=["before commit", "after commit"])
@pytest.mark.parametrize("how", ["acknowledge", "discard"])
async def test_settled_by_hand_while_the_link_is_lost(
    target: Target,
    engine: LocalEngine,
    faults: Faults,
    event_name: str,
    how: Any,
    after_commit: bool,
) -> None:
    """The call outlives the link; the event, which may come again, is not shown again."""
    faults.abort_next(how, after_commit=after_commit)
    async with subscribed(target, event_name) as (client, subscription):
        await publish_all(client, event_name, range(2))
        event = await take_one(subscription)
        await (event.ack() if how == "acknowledge" else event.discard())
        assert await the_last(client, subscription) == [1]
    statistics = engine.statistics()
    assert statistics.acknowledged + statistics.discarded == 3
    assert faults.calls("subscribe") == 2


@pytest.mark.parametrize("after_commit", [False, True], ids=["before commit", "after commit"])
async def test_deferred_while_the_link_is_lost_it_comes_again_once(
    target: Target, faults: Faults, event_name: str, after_commit: bool
) -> None:
    faults.abort_next("defer", after_commit=after_commit)
    async with subscribed(target, event_name) as (client, subscription):
        await publish_all(client, event_name, [0])
        event = await take_one(subscription)
        await event.defer(delay=0)
        again = await take_one(subscription)
        assert (again.idem, again.redelivered) == (event.idem, True)
        await again.ack()
        assert await the_last(client, subscription) == []


async def test_deferred_before_the_link_is_lost_it_comes_again_and_says_so(
    target: Target, faults: Faults, event_name: str
) -> None:
    async with subscribed(target, event_name) as (client, subscription):
        await publish_all(client, event_name, [0, 1])
        first, second = await take(subscription, 2)
        await first.defer(delay=0)
        await until(lambda: subscription.statistics().buffered == 1)
        await reconnected(faults)
        await until(lambda: subscription.statistics().duplicates == 2)
        again = await take_one(subscription)
        assert (again.idem, again.redelivered) == (first.idem, True)
        assert not second.redelivered
        await again.ack()
        await second.ack()
        assert await the_last(client, subscription) == []


ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "grpc": ("grpc", {}),
    "websocket": ("websocket", {}),
    "multiplexing": ("grpc", {"multiplex": True}),
    "later streams end": ("grpc", {"multiplex": True, "end_registering_streams": True}),
}


@pytest.mark.parametrize(("way", "options"), ENGINES.values(), ids=ENGINES)
async def test_after_20_reconnects_everything_is_as_it_was_told(
    faults: Faults, way: str, options: dict[str, Any]
) -> None:
    names = ["flowing", "paused", "unsubscribed"]
    with anyio.fail_after(PATIENCE):
        async with (
            opened(way, hooks=faults, **options) as (target, engine),
            target.connect(reconnect=AT_ONCE) as client,
            # The first one's stream carries the others' events where they share one.
            client.subscribe("unsubscribed") as unsubscribed,
            client.subscribe("flowing", auto_ack=False) as flowing,
            client.subscribe("paused", auto_ack=False) as paused,
        ):
            await unsubscribed.unsubscribe()
            await paused.pause()
            for _ in range(RECONNECTS):
                await cut_and_restored(faults, engine)
            for name in names:
                await client.publish(name, [client.app_id], name)
            assert (await take_one(flowing)).payload == "flowing"
            assert paused.statistics().received == 0
            assert [event async for event in unsubscribed] == []
            await paused.resume()
            assert (await take_one(paused)).payload == "paused"
            assert (flowing.statistics().received, paused.statistics().received) == (1, 1)
            assert faults.calls("delivery") == engine.statistics().delivered == 2


async def cut_and_restored(faults: Faults, engine: LocalEngine) -> None:
    """Cuts the connection; its successor subscribes to two names, and pauses one."""
    subscribes, pauses = faults.calls("subscribe"), faults.calls("pause")
    faults.abort_connections()
    await faults.wait_calls("subscribe", subscribes + 2)
    await faults.wait_calls("pause", pauses + 1)
    await until(lambda: engine.statistics().subscriptions == 2)
