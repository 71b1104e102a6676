"""Settling by hand: ack, defer, discard, and the settle() scope."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.server.memory import MemoryStore
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

Subscription = ensync.Subscription[Any]


async def test_ack_by_event_and_by_idem_and_block(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(4))
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        events = await take(subscription, 4)
        results = [
            await events[0].ack(),
            await subscription.ack(events[1]),
            await subscription.ack(events[2].idem, events[2].block),
        ]
        with pytest.raises(ensync.EnSyncValidationError, match="needs its block"):
            await subscription.ack(events[3].idem)
    for event, result in zip(events, results, strict=False):
        assert (result.status, result.action) == ("success", "acknowledged")
        assert (result.event_name, result.event_idem) == (event_name, event.idem)
        assert datetime.now(UTC) - result.timestamp < timedelta(minutes=1)
    assert await unsettled(target, event_name) == [3]


async def test_acking_twice_is_no_error(client: ensync.EnSyncClient, event_name: str) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        event = await take_one(subscription)
        await event.ack()
        assert (await event.ack()).status == "success"


async def test_acking_what_does_not_exist_is_refused(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    async with client.subscribe(event_name) as subscription:
        with pytest.raises(ensync.EnSyncSubscriptionError) as caught:
            await subscription.ack("no-such-idem", 0)
    assert caught.value.event_idem == "no-such-idem"
    assert caught.value.code == "acknowledge_refused"


# Defer


async def test_defer_by_nothing_hands_it_out_again_at_once(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        for redelivered in (False, True, True):
            event = await take_one(subscription)
            assert event.redelivered is redelivered
            result = await event.defer(delay=0, reason="not yet")
            assert (result.status, result.action, result.delay) == ("success", "deferred", 0)
            assert result.event_idem == event.idem
        await (await take_one(subscription)).ack()


async def test_a_deferred_event_comes_when_it_is_due(transport: str) -> None:
    now_ms = 1_700_000_000_000
    store = MemoryStore(now_ms=lambda: now_ms)
    async with opened(transport, store=store) as (target, _), target.connect() as client:
        await publish_all(client, "orders", ["deferred", "other"])
        async with client.subscribe("orders", auto_ack=False) as subscription:
            event = await take_one(subscription)
            result = await event.defer(delay=1.0)
            due = datetime.fromtimestamp(now_ms / 1000, UTC) + timedelta(seconds=1)
            assert result.scheduled_delivery == due
            assert (await take_one(subscription)).payload == "other"
            now_ms += 999
            store.bring_back_due()
            await client.publish("orders", [client.app_id], "a later one")
            assert (await take_one(subscription)).payload == "a later one"
            now_ms += 1
            store.bring_back_due()
            again = await take_one(subscription)
    assert (again.idem, again.payload, again.redelivered) == (event.idem, "deferred", True)


async def test_defer_by_idem(client: ensync.EnSyncClient, event_name: str) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        event = await take_one(subscription)
        await subscription.defer(event.idem, delay=0)
        again = await take_one(subscription)
        assert (again.idem, again.redelivered) == (event.idem, True)
        await again.ack()


@pytest.mark.parametrize("delay", [-1, 0.5, 0.999, 86_400.001, float("nan"), float("inf"), True])
async def test_a_delay_out_of_bounds_is_refused_before_it_is_sent(
    client: ensync.EnSyncClient, faults: Faults, event_name: str, delay: float
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name) as subscription:
        event = await take_one(subscription)
        with pytest.raises(ensync.EnSyncValidationError, match="delay"):
            await event.defer(delay=delay)
        with pytest.raises(ensync.EnSyncValidationError, match="delay"):
            event.settle(delay=delay)
    assert faults.calls("defer") == 0


@pytest.mark.parametrize("delay", [1.0, 86_400.0])
async def test_the_longest_and_the_shortest_delay(
    client: ensync.EnSyncClient, event_name: str, delay: float
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name) as subscription:
        result = await (await take_one(subscription)).defer(delay=delay)
    assert result.delay == delay


@pytest.mark.parametrize("reason", ["a;EVENT_NAME=:other", "two\nlines", "nul\0", "x" * 1025])
async def test_a_reason_that_could_forge_is_refused(
    client: ensync.EnSyncClient, faults: Faults, event_name: str, reason: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name) as subscription:
        event = await take_one(subscription)
        for call in (
            event.defer(delay=0, reason=reason),
            event.discard(reason=reason),
            subscription.pause(reason=reason),
        ):
            with pytest.raises(ensync.EnSyncValidationError, match="reason"):
                await call
    assert faults.calls("defer") == faults.calls("discard") == faults.calls("pause") == 0


# Discard


async def test_a_discarded_event_does_not_come_again(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        events = await take(subscription, 3)
        result = await events[0].discard(reason="of no use")
        await subscription.discard(events[1].idem)
    assert (result.status, result.action, result.event_idem) == (
        "success",
        "discarded",
        events[0].idem,
    )
    assert await unsettled(target, event_name) == [2]


# The scope


async def test_settle_acknowledges_on_success(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        event = await take_one(subscription)
        async with event.settle() as same:
            assert same is event
            assert engine.statistics().acknowledged == 0
    assert engine.statistics().acknowledged == 1


async def test_settle_defers_on_an_exception_which_goes_on(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        with pytest.raises(LookupError):
            async with (await take_one(subscription)).settle(delay=0):
                raise LookupError
        again = await take_one(subscription)
        assert again.redelivered
        await again.ack()
    assert engine.statistics().deferred == 1


async def test_settle_discards_on_an_exception_when_told_so(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        with pytest.raises(LookupError):
            async with (await take_one(subscription)).settle(on_error="discard"):
                raise LookupError
    assert engine.statistics().discarded == 1


async def test_settle_leaves_alone_what_was_settled_inside(
    client: ensync.EnSyncClient, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, range(2))
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        first, second = await take(subscription, 2)
        async with first.settle():
            await first.discard()
        with pytest.raises(LookupError):
            async with second.settle():
                await second.ack()
                raise LookupError
    assert faults.calls("acknowledge") == faults.calls("discard") == 1
    assert faults.calls("defer") == 0
    assert engine.statistics().in_hand == 0


async def test_settle_in_a_loop_with_auto_ack(
    client: ensync.EnSyncClient, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            async for event in subscription:
                async with event.settle():
                    pass
                if event.payload == 2:
                    break
    assert engine.statistics().acknowledged == faults.calls("acknowledge") == 3


async def test_an_error_of_the_body_wins_over_one_of_the_deferral(
    client: ensync.EnSyncClient,
    faults: Faults,
    event_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    faults.refuse_next("defer", "no deferrals today")
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        event = await take_one(subscription)
        with pytest.raises(LookupError):
            async with event.settle():
                raise LookupError
    assert any("no deferrals today" in record.getMessage() for record in caplog.records)


async def test_a_refused_settling_is_an_error_that_names_the_event(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    faults.refuse_next("discard", "never")
    async with client.subscribe(event_name) as subscription:
        event = await take_one(subscription)
        with pytest.raises(ensync.EnSyncSubscriptionError, match="never") as caught:
            await event.discard()
        assert (caught.value.event_idem, caught.value.event_name) == (event.idem, event_name)
        # It was not settled, and can be.
        await event.ack()


async def test_settling_is_never_failed_after_the_engine_applied_it(
    target: Target, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    """The answer is lost with the link: the request is repeated, and the engine says already."""
    reconnect = ensync.Reconnect(initial=0.01, maximum=0.01)
    async with target.connect(reconnect=reconnect) as client:
        await publish_all(client, event_name, range(2))
        async with client.subscribe(event_name, auto_ack=False) as subscription:
            first, second = await take(subscription, 2)
            faults.abort_next("acknowledge", after_commit=True)
            await first.ack()
            faults.abort_next("discard", after_commit=True)
            await second.discard()
    assert await unsettled(target, event_name) == []
    assert engine.statistics().in_hand == 0


@pytest.mark.parametrize("how", ["ack", "discard", "defer"])
async def test_what_is_settled_by_its_idem_while_it_waits_is_not_handed_out(
    client: ensync.EnSyncClient, event_name: str, how: str
) -> None:
    idem, _ = await publish_all(client, event_name, [0, 1])
    async with client.subscribe(event_name) as subscription:
        await until(lambda: subscription.statistics().buffered == 2)
        if how == "ack":
            await subscription.ack(idem, (await subscription.replay(idem)).block)
        elif how == "discard":
            await subscription.discard(idem)
        else:
            await subscription.defer(idem, delay=3600)
        assert (await take_one(subscription)).payload == 1


@pytest.mark.parametrize("how", ["ack", "discard", "defer"])
async def test_what_was_given_back_by_a_cancellation_and_settled_then_is_not_handed_out(
    client: ensync.EnSyncClient, event_name: str, how: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    async with client.subscribe(event_name) as subscription:
        cancelled: list[ensync.Event[Any]] = []
        with anyio.CancelScope() as scope:
            async for event in subscription:
                cancelled.append(event)
                scope.cancel()
                await anyio.sleep_forever()
        (event,) = cancelled
        if how == "defer":
            await event.defer(delay=3600)
        else:
            await (event.ack() if how == "ack" else event.discard())
        await publish_all(client, event_name, [2])
        assert [each.payload for each in await take(subscription, 2)] == [1, 2]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_scope_settles_a_replayed_event_too(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str, fails: bool
) -> None:
    (idem,) = await publish_all(client, event_name, [0])
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        with suppress(LookupError):
            async with (await subscription.replay(idem)).settle(on_error="discard"):
                if fails:
                    raise LookupError
    statistics = engine.statistics()
    assert (statistics.acknowledged, statistics.discarded) == ((0, 1) if fails else (1, 0))
