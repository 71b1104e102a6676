"""Compressed or not, a program sees the same, and the wire sees fewer bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import ensync
from ensync.testing import FaultProxy
from tests.conformance.harness import Target, opened, reconnected, take, take_one

pytestmark = pytest.mark.anyio

HTTP2_WAYS: list[Any] = ["auto", "h2"]
both_http2 = pytest.mark.parametrize("http2", HTTP2_WAYS)


async def test_events_arrive_compressed_or_not(target: Target, event_name: str) -> None:
    payloads: list[object] = [{}, "small", {"text": "x" * 300}, "x" * 1_000_000]
    async with (
        target.connect(compression="deflate") as compressing,
        target.connect() as plain,
    ):
        for sender, receiver in ((compressing, plain), (plain, compressing)):
            for payload in payloads:
                await sender.publish(event_name, [receiver.app_id], payload)
            async with receiver.subscribe(event_name) as subscription:
                events = await take(subscription, len(payloads))
            assert [event.payload for event in events] == payloads


@asynccontextmanager
async def through_a_proxy(**options: Any) -> AsyncIterator[tuple[ensync.EnSyncClient, FaultProxy]]:
    async with (
        opened("grpc") as (target, engine),
        FaultProxy(engine.url) as proxy,
        target._replace(url=proxy.url).connect(**options) as client,
    ):
        yield client, proxy


async def bytes_for(payload: object, times: int, **options: Any) -> tuple[int, int]:
    """What a few events take, to the engine and from it."""
    async with through_a_proxy(**options) as (client, proxy), client.subscribe("n") as events:
        upstream, downstream = proxy.bytes_total("upstream"), proxy.bytes_total("downstream")
        for _ in range(times):
            await client.publish("n", [client.app_id], payload)
            assert (await take_one(events)).payload == payload
        sent = proxy.bytes_total("upstream") - upstream
        return sent, proxy.bytes_total("downstream") - downstream


@both_http2
@pytest.mark.parametrize(("size", "times"), [(250, 5), (1_000_000, 1)])
async def test_events_take_fewer_bytes_both_ways(http2: str, size: int, times: int) -> None:
    payload = {"text": "x" * size}
    plain = await bytes_for(payload, times, http2=http2)
    smaller = await bytes_for(payload, times, http2=http2, compression="deflate")
    ratios = [less / more for less, more in zip(smaller, plain, strict=True)]
    # Acknowledgements, and what they are answered, are as large as they were.
    assert all(0.7 < ratio < 0.9 for ratio in ratios), ratios


@both_http2
async def test_small_messages_are_as_large_as_they_were(http2: str) -> None:
    async def bytes_to_pause(compression: str | None) -> int:
        async with (
            through_a_proxy(http2=http2, compression=compression) as (client, proxy),
            client.subscribe("n") as events,
        ):
            await events.pause()  # fills the tables of headers
            before = proxy.bytes_total("upstream")
            await events.pause()
            return proxy.bytes_total("upstream") - before

    assert await bytes_to_pause("deflate") - await bytes_to_pause(None) == 2  # two headers


@both_http2
async def test_a_new_connection_begins_anew(http2: str) -> None:
    reconnect = ensync.Reconnect(initial=0.01)
    options = {"http2": http2, "compression": "deflate", "reconnect": reconnect}
    async with through_a_proxy(**options) as (client, proxy), client.subscribe("n") as events:
        for number in range(3):
            before, client_id = proxy.bytes_total("upstream"), client.client_id
            await client.publish("n", [client.app_id], [number, "x" * 1000])
            assert proxy.bytes_total("upstream") - before < 1800  # of some 2,100
            assert (await take_one(events)).payload == [number, "x" * 1000]
            proxy.reset()
            await reconnected(client, client_id)


async def test_more_subscriptions_than_one_connection_carries() -> None:
    async with (
        opened("grpc", max_concurrent_streams=4) as (target, _),
        target.connect(compression="deflate") as client,
        AsyncExitStack() as stack,
    ):
        for number in range(6):
            subscribing = client.subscribe(f"n/{number}")
            events = await stack.enter_async_context(subscribing)
            await client.publish(f"n/{number}", [client.app_id], "x" * 1000)
            assert (await take_one(events)).payload == "x" * 1000
