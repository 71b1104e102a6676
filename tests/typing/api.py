"""Real uses, which only the type checkers read."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, assert_type

import ensync


@dataclass
class Order:
    order_id: str


async def connecting() -> None:
    tls = ssl.create_default_context()
    async with ensync.connect(
        "grpcs://host", app_key="k", tls=tls, connect_timeout=5, generation="message"
    ) as client:
        assert_type(client, ensync.EnSyncClient)
        assert_type(client.state, ensync.ClientState)
        async for state in client.states():
            assert_type(state, ensync.ClientState)
    reconnect = ensync.Reconnect(initial=0.1, max_attempts=None)
    async with (
        ensync.EnSyncWebSocketEngine("wss://host", reconnect=reconnect) as engine,
        engine.create_client("key", app_secret_key="secret") as client,
    ):
        assert_type(engine, ensync.EnSyncWebSocketEngine)
        assert_type(client.app_id, str)


async def publishing(client: ensync.EnSyncClient) -> None:
    receipt = await client.publish("name", ["id"], Order("a"), {"a": 1}, encryption="hybrid")
    assert_type(receipt, ensync.Receipt)
    assert_type(receipt.event_id, str)
    try:
        await client.publish("name", ("id",), None, timeout=1)
    except ensync.EnSyncPublishError as error:
        assert_type(error.accepted, dict[str, str])
        assert_type(error.unknown, dict[str, ensync.EnSyncError])


async def publishing_many(client: ensync.EnSyncClient) -> None:
    async def events() -> AsyncIterator[ensync.OutgoingEvent]:
        yield ensync.OutgoingEvent("name", ["id"], 1)

    async with client.publish_many(events(), max_in_flight=8) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, ensync.PublishOutcome)
            assert_type(outcome.unwrap(), ensync.Receipt)
    async with client.publish_many([ensync.OutgoingEvent("name", ("id",), 1)]):
        pass


async def subscribing(client: ensync.EnSyncClient) -> None:
    async with client.subscribe("name") as plain:
        assert_type(plain, ensync.Subscription[Any])
    async with client.subscribe("name", payload_type=Order, auto_ack=False) as orders:
        assert_type(orders, ensync.Subscription[Order])
        async for event in orders:
            assert_type(event, ensync.Event[Order])
            assert_type(event.payload, Order)
            assert_type(await event.ack(), ensync.ControlResult)
            assert_type(await event.defer(delay=1), ensync.DeferResult)
            assert_type(await event.reply({}), ensync.Receipt)
            async with event.settle(on_error="discard") as same:
                assert_type(same, ensync.Event[Order])
        assert_type(await orders.replay("idem"), ensync.Event[Order])
        assert_type(orders.statistics(), ensync.SubscriptionStatistics)


async def handling(orders: ensync.Subscription[Order]) -> None:
    async def handle(event: ensync.Event[Order]) -> None:
        await event.discard(reason=event.payload.order_id)

    await orders.for_each(handle, concurrency=4, on_error="defer", delay=5)


async def invalid(client: ensync.EnSyncClient) -> None:
    def discard(_error: ensync.EnSyncInvalidEventError) -> str:
        return "discard"

    async with client.subscribe("name", on_invalid=lambda _error: "discard") as subscription:
        try:
            async for _ in subscription:
                pass
        except ensync.EnSyncInvalidEventError as error:
            if error.event is not None:
                assert_type(error.event, ensync.RawEvent)
                await error.event.discard()
    client.subscribe("name", on_invalid=discard)  # type: ignore[arg-type]  # pyright: ignore


def refused(client: ensync.EnSyncClient) -> None:
    client.subscribe("name", auto_ak=True)  # type: ignore[call-overload]  # pyright: ignore
    ensync.connect("grpc://host", disable_tl=True)  # type: ignore[call-arg]  # pyright: ignore
    ensync.EnSyncEngine("grpc://host", request_timeout="1")  # type: ignore[arg-type]  # pyright: ignore
