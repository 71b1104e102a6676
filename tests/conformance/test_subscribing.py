"""subscribe(): what entering means, what arrives, and in whose hands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from tests.conformance.harness import (
    PATIENCE,
    Keys,
    Target,
    address,
    publish_all,
    take,
    take_one,
    unsettled,
)

pytestmark = pytest.mark.anyio


async def test_entering_means_that_the_engine_has_registered_it(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    async with client.subscribe(event_name):
        assert engine.statistics().subscriptions == 1
    assert engine.statistics().subscriptions == 0


async def test_an_event_says_everything(
    client: ensync.EnSyncClient, other_client: ensync.EnSyncClient, event_name: str
) -> None:
    receipt = await other_client.publish(event_name, [client.app_id], {"a": 1}, {"b": "c"})
    async with client.subscribe(event_name) as subscription:
        event = await take_one(subscription)
    assert event.idem == receipt.event_id
    assert event.event_name == event_name
    assert event.payload == {"a": 1}
    assert event.metadata["b"] == "c"
    assert (event.sender, event.recipient) == (other_client.app_id, client.app_id)
    assert event.redelivered is False
    if event.timestamp is not None:  # gRPC has none
        assert abs(event.timestamp - datetime.now(UTC)) < timedelta(minutes=1)


async def test_events_come_in_order(client: ensync.EnSyncClient, event_name: str) -> None:
    async with client.subscribe(event_name) as subscription:
        await publish_all(client, event_name, range(50))
        events = await take(subscription, 50)
    assert [event.payload for event in events] == list(range(50))
    assert [event.block for event in events] == sorted({event.block for event in events})


async def test_a_second_subscription_to_a_name_is_refused(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    async with client.subscribe(event_name) as first:
        with pytest.raises(ensync.EnSyncSubscriptionError, match="several tasks") as caught:
            async with client.subscribe(event_name):
                pass
        assert (caught.value.code, caught.value.event_name) == ("already_subscribed", event_name)
        # The first one is none the worse for it.
        await client.publish(event_name, [client.app_id], "still here")
        assert (await take_one(first)).payload == "still here"


async def test_a_name_can_be_subscribed_to_again(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    for n in range(3):
        async with client.subscribe(event_name) as subscription:
            await client.publish(event_name, [client.app_id], n)
            assert (await take_one(subscription)).payload == n


async def test_subscriptions_to_several_names_get_their_own(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    names = [f"{event_name}/{n}" for n in range(3)]
    async with (
        client.subscribe(names[0]) as first,
        client.subscribe(names[1]) as second,
        client.subscribe(names[2]) as third,
    ):
        for name in reversed(names):
            await client.publish(name, [client.app_id], name)
        payloads = [(await take_one(each)).payload for each in (first, second, third)]
    assert payloads == names


async def test_an_app_without_permission_is_refused(transport: str, engine: LocalEngine) -> None:
    keys = Keys.of(engine.create_app("writer", receive=["allowed"]))
    async with Target(address(engine, transport), keys, keys).connect() as client:
        async with client.subscribe("allowed"):
            pass
        with pytest.raises(ensync.EnSyncSubscriptionError, match="no permission to receive"):
            async with client.subscribe("forbidden"):
                pass


async def test_clients_of_one_app_share_its_events(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    got: list[int] = []

    async def consume(subscription: ensync.Subscription[int], scope: anyio.CancelScope) -> None:
        async for event in subscription:
            got.append(event.payload)
            await event.ack()
            if len(got) == 40:
                scope.cancel()

    async with (
        target.connect() as second_client,
        client.subscribe(event_name, auto_ack=False) as first,
        second_client.subscribe(event_name, auto_ack=False) as second,
    ):
        await publish_all(client, event_name, range(40))
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, first, tasks.cancel_scope)
                tasks.start_soon(consume, second, tasks.cancel_scope)
    assert sorted(got) == list(range(40))


async def test_several_cursors_share_one_subscription(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    taken: dict[str, list[int | str]] = {"a": [], "b": [], "c": []}
    all_in_hand = anyio.Event()

    async def consume(name: str) -> None:
        async for event in subscription:
            taken[name].append(event.payload)
            if all(taken.values()):
                all_in_hand.set()
            await all_in_hand.wait()
            if event.payload == "stop":
                return

    async with client.subscribe(event_name) as subscription:
        await publish_all(client, event_name, [*range(30), "stop", "stop", "stop"])
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for name in taken:
                    tasks.start_soon(consume, name)
    numbers = [p for payloads in taken.values() for p in payloads if isinstance(p, int)]
    assert sorted(numbers) == list(range(30))
    assert await unsettled(target, event_name) == []


async def test_a_slow_subscription_does_not_hold_up_others(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    slow, fast = f"{event_name}/slow", f"{event_name}/fast"
    async with (
        client.subscribe(slow, buffer_size=1) as unread,
        client.subscribe(fast) as read,
    ):
        await publish_all(client, slow, range(30))
        await publish_all(client, fast, range(30))
        assert len(await take(read, 30)) == 30
        # Nothing is lost of the one that waited.
        assert [event.payload for event in await take(unread, 30)] == list(range(30))


async def test_events_and_subscriptions_are_received_and_not_made(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name) as subscription:
        event = await take_one(subscription)
    with pytest.raises(AttributeError, match="frozen"):
        event.payload = 2
    with pytest.raises(AttributeError, match="frozen"):
        del event.payload
    for received in (event, subscription, client):
        with pytest.raises(TypeError, match="received, not made"):
            type(received)()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="can't be subclassed"):
            type("Mine", (type(received),), {})


async def test_after_its_block_a_subscription_is_closed(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        event = await take_one(subscription)
    assert [late async for late in subscription] == []
    for settle in (event.ack(), event.defer(delay=0), event.discard(), subscription.pause()):
        with pytest.raises(ensync.EnSyncSubscriptionError, match="was left"):
            await settle
