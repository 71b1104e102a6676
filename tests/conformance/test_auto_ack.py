"""Auto-ack: strictly after success, once for each event."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import (
    PATIENCE,
    Target,
    publish_all,
    take,
    take_one,
    unsettled,
)

pytestmark = pytest.mark.anyio


async def test_asking_for_the_next_event_acknowledges_this_one(
    client: ensync.EnSyncClient, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, range(5))
    acknowledged: list[int] = []
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            async for event in subscription:
                # What was asked to be acknowledged has arrived, and nothing else.
                await faults.wait_calls("acknowledge", event.payload)
                await client.publish(f"{event_name}/elsewhere", [client.app_id], "a round trip")
                acknowledged.append(faults.calls("acknowledge"))
                if event.payload == 4:
                    break
    assert acknowledged == [0, 1, 2, 3, 4]
    assert faults.calls("acknowledge") == engine.statistics().acknowledged == 5


@pytest.mark.parametrize("payload", [{}, [], "", 0, False, None], ids=repr)
async def test_an_empty_payload_is_acknowledged(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str, payload: object
) -> None:
    await client.publish(event_name, [client.app_id], payload)
    async with client.subscribe(event_name) as subscription:
        event = await take_one(subscription)
        assert event.payload == payload
        assert event.block == 0  # the first event of this engine
    assert engine.statistics().acknowledged == 1


async def test_acks_are_pipelined(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, range(20))
    held = faults.hold("acknowledge", count=None)
    async with client.subscribe(event_name) as subscription:
        # No acknowledgement is answered, and the loop goes on.
        await take(subscription, 20)
        assert subscription.statistics().unconfirmed == 19
        held.cancel()
    assert subscription.statistics().acknowledged == 20


async def test_a_break_and_the_end_of_the_block_acknowledge(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, ["taken", "not asked for"])
    async with client.subscribe(event_name) as subscription:
        await take_one(subscription)
    assert await unsettled(target, event_name) == ["not asked for"]


async def test_two_loops_after_each_other_acknowledge_both_events(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    async with client.subscribe(event_name) as subscription:
        assert (await take_one(subscription)).payload == 0
        assert (await take_one(subscription)).payload == 1
    assert await unsettled(target, event_name) == [2]


async def test_an_exception_in_the_body_leaves_its_event(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    with pytest.raises(LookupError):
        async with client.subscribe(event_name) as subscription:
            async for event in subscription:
                if event.payload == 1:
                    raise LookupError
    assert await unsettled(target, event_name) == [1, 2]


async def test_an_exception_that_is_caught_around_the_loop_leaves_nothing(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    """The block is left without an exception: its owner says that all is well."""
    await publish_all(client, event_name, range(2))
    async with client.subscribe(event_name) as subscription:
        with pytest.raises(LookupError):
            async for _ in subscription:
                raise LookupError
    assert await unsettled(target, event_name) == [1]


async def test_an_event_that_was_left_comes_again(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    receipt = await client.publish(event_name, [client.app_id], 1)
    with pytest.raises(LookupError):
        async with client.subscribe(event_name) as subscription:
            async for _ in subscription:
                raise LookupError
    async with client.subscribe(event_name) as subscription:
        event = await take_one(subscription)
    assert event.idem == receipt.event_id


async def test_without_auto_ack_nothing_is_acknowledged(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        await take(subscription, 3)
    assert await unsettled(target, event_name) == [0, 1, 2]


async def test_an_event_that_was_settled_by_hand_is_not_acknowledged_as_well(
    client: ensync.EnSyncClient, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, ["ack", "discard", "end"])
    async with client.subscribe(event_name) as subscription:
        async for event in subscription:
            if event.payload == "ack":
                await event.ack()
            elif event.payload == "discard":
                await event.discard()
            else:
                break
    assert faults.calls("acknowledge") == 2
    assert engine.statistics().acknowledged == 2
    assert engine.statistics().discarded == 1


async def test_a_refused_ack_is_counted_and_logged_once(
    client: ensync.EnSyncClient,
    faults: Faults,
    target: Target,
    event_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await publish_all(client, event_name, range(3))
    faults.refuse_next("acknowledge", "not now", count=3)
    async with client.subscribe(event_name) as subscription:
        await take(subscription, 3)
    assert subscription.statistics().refused == 3
    assert subscription.statistics().acknowledged == 0
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "not now" in warnings[0]
    assert await unsettled(target, event_name) == [0, 1, 2]


@pytest.mark.parametrize("words", ["already settled", "a duplicate", "was acknowledged before"])
async def test_already_acknowledged_is_as_good(
    client: ensync.EnSyncClient, faults: Faults, event_name: str, words: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    faults.refuse_next("acknowledge", words)
    async with client.subscribe(event_name) as subscription:
        await take_one(subscription)
    assert subscription.statistics().refused == 0
    assert subscription.statistics().acknowledged == 1


EVENTS, CALLS = 100, 4
# Of how long the same number of calls takes outside a loop. Whoever waits for a timer or for
# himself takes many times as long; a machine that is busy with something else slows down both.
AT_MOST = 3.0


async def test_a_loop_body_may_use_its_own_client(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    """The reader never runs user code, so nothing waits for itself."""
    slowdowns: list[float] = []
    with anyio.fail_after(6 * PATIENCE):
        while not slowdowns or min(slowdowns) > AT_MOST:
            assert len(slowdowns) < 3, slowdowns
            outside = await seconds_of_calls_outside(client, f"{event_name}/elsewhere")
            slowdowns.append(await seconds_of_calls_in_a_body(client, event_name) / outside)


async def seconds_of_calls_outside(client: ensync.EnSyncClient, event_name: str) -> float:
    began = anyio.current_time()
    await publish_all(client, event_name, range(EVENTS * CALLS))
    return anyio.current_time() - began


async def seconds_of_calls_in_a_body(client: ensync.EnSyncClient, event_name: str) -> float:
    await publish_all(client, event_name, range(EVENTS))
    seen = 0
    async with client.subscribe(event_name) as subscription:
        began = anyio.current_time()
        async for event in subscription:
            await client.publish(f"{event_name}/elsewhere", [client.app_id], event.payload)
            await event.ack()
            await subscription.pause()
            await subscription.resume()
            seen += 1
            if seen == EVENTS:
                break
        seconds = anyio.current_time() - began
    assert subscription.statistics().acknowledged == EVENTS
    return seconds


async def test_statistics(client: ensync.EnSyncClient, event_name: str) -> None:
    await publish_all(client, event_name, range(6))
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        events = await take(subscription, 6)
        await events[0].ack()
        await events[1].defer(delay=3600)
        await events[2].discard()
        expected: dict[str, Any] = {
            "received": 6,
            "duplicates": 0,
            "invalid": 0,
            "buffered": 0,
            "in_hand": 3,
            "unconfirmed": 0,
            "deferred": 1,
            "discarded": 1,
            "refused": 0,
            "failed_handlers": 0,
        }
        statistics = subscription.statistics()
        assert {name: getattr(statistics, name) for name in expected} == expected
        for event in events[3:]:
            await event.ack()
