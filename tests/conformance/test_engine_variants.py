"""Engines differ: in the names of their methods, in when they speak, in what a stream carries."""

from __future__ import annotations

from collections.abc import AsyncIterator
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

pytestmark = pytest.mark.anyio

VARIANTS: dict[str, dict[str, Any]] = {
    "event generation": {"generations": ("event",)},
    "message generation": {"generations": ("message",)},
    "late headers": {"early_headers": False},
    "multiplexing": {"multiplex": True},
    "multiplexing, later streams end": {"multiplex": True, "end_registering_streams": True},
    "multiplexing, late headers": {"multiplex": True, "early_headers": False},
    "three streams at a time": {"max_concurrent_streams": 3},
    "little in flight": {"max_in_flight": 2},
}


@pytest.fixture(params=VARIANTS.values(), ids=list(VARIANTS))
async def variant(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Target, LocalEngine]]:
    async with opened("grpc", **request.param) as pair:
        yield pair


async def test_everything_works(variant: tuple[Target, LocalEngine]) -> None:
    target, engine = variant
    with anyio.fail_after(PATIENCE):
        async with target.connect() as client, client.subscribe("orders") as subscription:
            await publish_all(client, "orders", range(20))
            payloads: list[Any] = []
            async for event in subscription:
                payloads.append(event.payload)
                if event.payload == 7 and not event.redelivered:
                    await event.defer(delay=0)
                if len(payloads) == 21:
                    break
            await subscription.pause()
            await subscription.resume()
            await client.publish("orders", [client.app_id], "the last one")
            last = await take_one(subscription)
            assert (await subscription.replay(last.idem)).payload == "the last one"
    assert sorted(payloads) == sorted([*range(20), 7])
    assert engine.statistics().acknowledged == 21
    assert await unsettled(target, "orders") == []


@pytest.mark.parametrize("generation", ["event", "message"])
async def test_told_the_generation_a_client_does_not_ask(generation: Any) -> None:
    async with opened("grpc") as (target, _), target.connect(generation=generation) as client:
        assert (await client.publish("orders", [client.app_id], 1)).event_id
    other = "message" if generation == "event" else "event"
    async with (
        opened("grpc", generations=(other,)) as (target, _),
        target.connect(generation=generation) as client,
    ):
        with pytest.raises(ensync.EnSyncPublishError):
            await client.publish("orders", [client.app_id], 1)


MULTIPLEXING = [
    {"multiplex": True},
    {"multiplex": True, "end_registering_streams": True},
]


@pytest.fixture(params=MULTIPLEXING, ids=["later streams stay", "later streams end"])
async def multiplexing(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Target, LocalEngine]]:
    async with opened("grpc", **request.param) as pair:
        yield pair


async def test_several_names_on_one_stream(multiplexing: tuple[Target, LocalEngine]) -> None:
    target, _ = multiplexing
    names = ["a", "b", "c"]
    async with (
        target.connect() as client,
        client.subscribe("a") as a,
        client.subscribe("b") as b,
        client.subscribe("c") as c,
    ):
        for name in [*names, *reversed(names)]:
            await client.publish(name, [client.app_id], name)
        with anyio.fail_after(PATIENCE):
            for subscription in (c, b, a):
                events = await take(subscription, 2)
                assert {event.payload for event in events} == {subscription.event_name}


async def test_leaving_the_first_subscription_keeps_the_others(
    multiplexing: tuple[Target, LocalEngine],
) -> None:
    target, _ = multiplexing
    async with target.connect() as client:
        first = client.subscribe("a")
        await first.__aenter__()
        async with client.subscribe("b") as second:
            await client.publish("b", [client.app_id], 1)
            assert (await take_one(second)).payload == 1
            await first.__aexit__(None, None, None)
            await client.publish("b", [client.app_id], 2)
            assert (await take_one(second)).payload == 2
            async with client.subscribe("a") as again:
                await client.publish("a", [client.app_id], 3)
                assert (await take_one(again)).payload == 3


ALL_VARIANTS_OF_STREAMS = [{}, *MULTIPLEXING]


@pytest.mark.parametrize(
    "options", ALL_VARIANTS_OF_STREAMS, ids=["apart", "later streams stay", "later streams end"]
)
async def test_when_all_streams_end_again_and_again_none_is_there_twice(
    options: dict[str, Any],
) -> None:
    faults = Faults()
    soon = ensync.Reconnect(initial=0.001, maximum=0.001)
    names = ["a", "b", "c"]
    rounds = 10
    # Where all events come on the first stream, the others may end once they have registered.
    streams = 1 if options.get("end_registering_streams") else len(names)
    async with opened("grpc", hooks=faults, **options) as (target, _):
        with anyio.fail_after(2 * PATIENCE):
            async with (
                target.connect(reconnect=soon) as client,
                client.subscribe("a") as a,
                client.subscribe("b") as b,
                client.subscribe("c") as c,
            ):
                for number in range(rounds):
                    for subscription in (a, b, c):
                        await client.publish(subscription.event_name, [client.app_id], number)
                        assert (await take_one(subscription)).payload == number
                    await faults.wait_streams(streams)
                    calls = faults.calls("subscribe")
                    assert faults.end_streams("UNAVAILABLE") == streams
                    await faults.wait_calls("subscribe", calls + len(names))
                for subscription in (a, b, c):
                    await client.publish(subscription.event_name, [client.app_id], "last")
                    assert (await take_one(subscription)).payload == "last"
                await faults.wait_streams(streams)
            assert faults.calls("connect") == 1
            # The two that end before the one that carries all may have asked in vain.
            if streams > 1:
                assert faults.calls("subscribe") <= len(names) + rounds * (len(names) + 2)
            await faults.wait_streams(0)


async def test_an_unread_subscription_does_not_hold_up_the_stream_it_shares(
    multiplexing: tuple[Target, LocalEngine],
) -> None:
    target, _ = multiplexing
    async with (
        target.connect() as client,
        client.subscribe("unread", buffer_size=2) as unread,
        client.subscribe("read") as read,
    ):
        await publish_all(client, "unread", range(50))
        await publish_all(client, "read", range(50))
        with anyio.fail_after(PATIENCE):
            assert len(await take(read, 50)) == 50
            assert sorted(e.payload for e in await take(unread, 50)) == list(range(50))


async def test_20_reconnects_and_then_one_delivery(
    target: Target, faults: Faults, event_name: str
) -> None:
    reconnect = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=None)
    async with (
        target.connect(reconnect=reconnect) as client,
        client.subscribe(event_name) as subscription,
    ):
        for n in range(2, 22):
            faults.abort_connections()
            await faults.wait_calls("subscribe", n)
        await client.publish(event_name, [client.app_id], "once")
        assert (await take_one(subscription)).payload == "once"
        await client.publish(event_name, [client.app_id], "end")
        assert (await take_one(subscription)).payload == "end"
    assert faults.calls("delivery") == 2
