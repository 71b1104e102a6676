"""Pauses that outlive what asked for them: the engine keeps one until it is told otherwise."""

from __future__ import annotations

import anyio
import pytest

import ensync
from ensync.server.hooks import DoorCall, DoorFault, DoorHooks
from tests.conformance.harness import PATIENCE, opened, publish_all, take, take_one
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio

SOON = ensync.Reconnect(initial=0.005, maximum=0.02, max_attempts=None)


class FailsUnsubscribing(DoorHooks):
    """Fails what a client asks for when a subscription is left."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def before_handling(self, call: DoorCall) -> None:
        self.asked.append(call.method)
        if call.method == "unsubscribe":
            raise DoorFault("not now", status="INVALID_ARGUMENT")


@pytest.mark.parametrize("transport", ["grpc", "websocket"])
@pytest.mark.parametrize("by", ["the user", "a full buffer"])
async def test_who_subscribes_again_is_not_paused(transport: str, by: str) -> None:
    hooks = FailsUnsubscribing()
    buffer_size = 100 if by == "the user" else 2
    with anyio.fail_after(2 * PATIENCE):
        async with (
            opened(transport, hooks=hooks, multiplex=True) as (target, _),
            target.connect(request_timeout=2.0) as client,
            client.subscribe("other"),
        ):
            await publish_all(client, "orders", range(10))
            async with client.subscribe("orders", buffer_size=buffer_size) as subscription:
                if by == "the user":
                    await subscription.pause()
                await until(lambda: "pause" in hooks.asked)
            async with client.subscribe("orders") as subscription:
                events = await take(subscription, 10)
    assert sorted(event.payload for event in events) == list(range(10))


class BreaksTheStream(DoorHooks):
    """Ends the stream that carries all when told to; registering again takes a while then."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_to_break = self.is_broken = self.may_go_on = False

    async def before_handling(self, call: DoorCall) -> None:
        self.asked.append(call.method)
        if call.method == "subscribe" and self.is_broken:
            await until(lambda: self.may_go_on)

    async def during_stream(self, call: DoorCall) -> None:
        if self.is_broken:
            await anyio.sleep_forever()
        await until(lambda: self.is_to_break)
        self.is_broken = True
        raise DoorFault("broken", status="UNAVAILABLE")


async def test_a_buffer_that_is_emptied_while_it_is_not_registered() -> None:
    hooks = BreaksTheStream()
    seen: set[int] = set()
    with anyio.fail_after(2 * PATIENCE):
        async with (
            opened("grpc", hooks=hooks, multiplex=True) as (target, _),
            target.connect(reconnect=SOON) as client,
            client.subscribe("other") as other,
            client.subscribe("orders", buffer_size=2) as subscription,
        ):
            await client.publish("other", [client.app_id], 0)
            await take_one(other)
            await publish_all(client, "orders", range(200))
            await until(lambda: "pause" in hooks.asked)
            hooks.is_to_break = True
            await until(lambda: not subscription._intake.is_attached)
            async for event in subscription:
                seen.add(event.payload)
                if subscription.statistics().buffered == 0:
                    hooks.may_go_on = True
                if len(seen) == 200:
                    break
    assert seen == set(range(200))
