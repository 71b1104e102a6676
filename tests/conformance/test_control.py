"""Control calls tell the truth: pause, resume, replay, unsubscribe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import (
    PATIENCE,
    Target,
    impatient,
    opened,
    publish_all,
    take,
    take_one,
    unsettled,
)

pytestmark = pytest.mark.anyio

Subscription = ensync.Subscription[Any]


async def comes_within(subscription: Subscription, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        async for _ in subscription:
            return True
    return False


async def test_pause_and_resume(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    async with client.subscribe(event_name) as subscription:
        paused = await subscription.pause(reason="maintenance")
        assert (paused.status, paused.action, paused.event_name) == (
            "success",
            "paused",
            event_name,
        )
        assert subscription.is_paused
        await client.publish(event_name, [client.app_id], 1)
        assert not await comes_within(subscription, 0.05)
        assert engine.statistics().delivered == 0
        resumed = await subscription.resume()
        assert (resumed.status, resumed.action) == ("success", "continued")
        assert not subscription.is_paused
        assert (await take_one(subscription)).payload == 1


async def test_pause_stops_what_is_buffered_too(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    async with client.subscribe(event_name) as subscription:
        assert (await take_one(subscription)).payload == 0
        await subscription.pause()
        assert not await comes_within(subscription, 0.05)
        await subscription.resume()
        assert [event.payload for event in await take(subscription, 2)] == [1, 2]


async def test_continue_subscription_is_the_older_name_of_resume(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    async with client.subscribe(event_name) as subscription:
        await subscription.pause()
        await subscription.continue_subscription()
        assert not subscription.is_paused


async def test_the_paused_scope(client: ensync.EnSyncClient, event_name: str) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name) as subscription:
        with pytest.raises(LookupError):
            async with subscription.paused("maintenance"):
                assert subscription.is_paused
                raise LookupError
        assert not subscription.is_paused
        with anyio.CancelScope() as scope:
            async with subscription.paused():
                scope.cancel()
                await anyio.sleep_forever()
        assert not subscription.is_paused
        assert (await take_one(subscription)).payload == 1


async def test_a_pause_concerns_this_client_only(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    async with (
        target.connect() as second_client,
        client.subscribe(event_name) as first,
        second_client.subscribe(event_name) as second,
    ):
        await first.pause()
        await publish_all(client, event_name, range(10))
        assert [event.payload for event in await take(second, 10)] == list(range(10))


async def test_an_event_in_hand_may_be_settled_while_paused(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        event = await take_one(subscription)
        await subscription.pause()
        await event.ack()
    assert await unsettled(target, event_name) == []


async def test_a_pause_outlives_the_link(target: Target, faults: Faults, event_name: str) -> None:
    reconnect = ensync.Reconnect(initial=0.01, maximum=0.01)
    async with (
        target.connect(reconnect=reconnect) as client,
        client.subscribe(event_name) as subscription,
    ):
        await subscription.pause()
        faults.abort_connections()
        await faults.wait_calls("pause", 2)
        await client.publish(event_name, [client.app_id], 1)
        assert not await comes_within(subscription, 0.05)
        await subscription.resume()
        assert (await take_one(subscription)).payload == 1


# Replay


@pytest.mark.parametrize("generation", ["event", "message"])
async def test_replay_in_both_generations(generation: str) -> None:
    async with opened("grpc", generations=(generation,)) as (target, engine):
        async with target.connect() as client, client.subscribe("orders") as subscription:
            await check_replay(client, subscription, whole=generation == "message")
        assert engine.statistics().replayed == 2


async def test_replay(client: ensync.EnSyncClient, event_name: str) -> None:
    async with client.subscribe(event_name) as subscription:
        await check_replay(client, subscription, whole=True)


async def check_replay(
    client: ensync.EnSyncClient, subscription: Subscription, *, whole: bool
) -> None:
    """``whole``: the engine says all of the event, and not its payload alone."""
    name = subscription.event_name
    receipt = await client.publish(name, [client.app_id], {"a": 1}, {"source": "web"})
    event = await take_one(subscription)
    for acknowledged in ("false", "true"):
        replayed = await subscription.replay(receipt.event_id)
        assert (replayed.idem, replayed.payload) == (event.idem, {"a": 1})
        assert (replayed.event_name, replayed.redelivered) == (name, True)
        if whole or acknowledged == "false":
            assert (replayed.sender, replayed.block) == (event.sender, event.block)
        if whole:
            assert replayed.metadata["source"] == "web"
            info = replayed.metadata["$internal"]["replay_info"]
            assert info["is_replayed"] == {"is_string": False, "content": "true"}
            assert info["was_acknowledged"] == {"is_string": False, "content": acknowledged}
        await event.ack()


async def test_replay_of_what_is_not_there_is_refused(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    async with client.subscribe(event_name) as subscription:
        with pytest.raises(ensync.EnSyncSubscriptionError) as caught:
            await subscription.replay("no-such-idem")
    assert (caught.value.code, caught.value.event_idem) == ("replay_refused", "no-such-idem")


async def test_what_was_not_to_be_kept_can_not_be_replayed(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1, {"persist": False})
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        event = await take_one(subscription)
        await event.ack()
        with pytest.raises(ensync.EnSyncSubscriptionError):
            await subscription.replay(event.idem)


async def test_another_apps_event_can_not_be_replayed(
    client: ensync.EnSyncClient, other_client: ensync.EnSyncClient, event_name: str
) -> None:
    receipt = await client.publish(event_name, [client.app_id], 1)
    async with other_client.subscribe(event_name) as subscription:
        with pytest.raises(ensync.EnSyncSubscriptionError):
            await subscription.replay(receipt.event_id)


# Unsubscribe


async def test_unsubscribe_ends_every_loop(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    ended: list[str] = []

    async def loop(name: str) -> None:
        async for _ in subscription:
            pytest.fail("there is no event")
        ended.append(name)

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(loop, "a")
                tasks.start_soon(loop, "b")
                await anyio.wait_all_tasks_blocked()
                result = await subscription.unsubscribe()
                assert (result.status, result.action) == ("success", "unsubscribed")
            assert engine.statistics().subscriptions == 0
            # The name is free again, before the block is left.
            await client.publish(event_name, [client.app_id], 1)
            async with client.subscribe(event_name) as another:
                assert (await take_one(another)).payload == 1
    assert sorted(ended) == ["a", "b"]


CALLS: dict[str, Callable[[Subscription], Awaitable[object]]] = {
    "pause": lambda subscription: subscription.pause(),
    "continue": lambda subscription: subscription.resume(),
    "unsubscribe": lambda subscription: subscription.unsubscribe(),
    "replay": lambda subscription: subscription.replay("some-idem"),
}


@pytest.mark.parametrize("method", CALLS)
async def test_a_refusal_is_raised_with_the_engines_words(
    client: ensync.EnSyncClient, faults: Faults, event_name: str, method: Any
) -> None:
    async with client.subscribe(event_name) as subscription:
        faults.refuse_next(method, "not on a Monday")
        with pytest.raises(ensync.EnSyncSubscriptionError, match="not on a Monday") as caught:
            await CALLS[method](subscription)
        assert caught.value.code == f"{method}_refused"
        assert caught.value.event_name == event_name
        assert not subscription.is_paused
        # It goes on as if nothing had been asked.
        await client.publish(event_name, [client.app_id], 1)
        assert (await take_one(subscription)).payload == 1


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_that_is_never_answered_has_a_deadline(
    target: Target, faults: Faults, event_name: str, method: Any
) -> None:
    async with (
        target.connect(drain_timeout=0.2) as client,
        client.subscribe(event_name) as subscription,
    ):
        faults.drop_request(method)
        with (
            anyio.fail_after(PATIENCE),
            pytest.raises(ensync.EnSyncTimeoutError),
            impatient(client),
        ):
            await CALLS[method](subscription)
