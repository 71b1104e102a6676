"""What is cut at each of its checkpoints: settling by hand, control calls, and a reconnect."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import ensync
from ensync.reading import Verdict
from tests.conformance.harness import publish_all, take_one, unsettled_by
from tests.faults.checkpoint_stage import Iterating, Play, Stage
from tests.faults.checkpoints import Cut
from tests.faults.delivery_plays import Handling
from tests.unit.server.grpc_client import until

__all__ = ["CONTROL_PLAYS"]


class SettlingInScopes(Play):
    async def act(self, cut: Cut) -> None:
        async with self.stage.client.subscribe(self.name, auto_ack=False) as subscription:
            async for event in subscription:
                async with event.settle():
                    await anyio.lowlevel.checkpoint()
                    self.started.append(event.payload)
                self.done.append(event.payload)
                if len(self.done) == 3:
                    break


class GivingBack(Play):
    """Each event is given back at first, and comes again in the same loop."""

    def __init__(self, stage: Stage, name: str) -> None:
        super().__init__(stage, name)
        self.given_back: list[int] = []

    async def act(self, cut: Cut) -> None:
        async with self.stage.client.subscribe(self.name) as subscription:
            async for event in subscription:
                await anyio.lowlevel.checkpoint()
                if event.payload not in self.given_back:
                    self.given_back.append(event.payload)
                    await self.give_back(event)
                    continue
                self.started.append(event.payload)
                if len(self.started) == 3:
                    await event.ack()  # before the end of the loop could be a cancellation's
                    self.done.append(event.payload)
                    break

    async def give_back(self, event: ensync.Event[int]) -> None:
        await event.defer(delay=0)


async def fail() -> None:
    """What a program does with an event, in vain."""
    await anyio.lowlevel.checkpoint()
    raise LookupError


class FailingInScopes(GivingBack):
    async def give_back(self, event: ensync.Event[int]) -> None:
        with suppress(LookupError):
            async with event.settle(delay=0):
                await fail()


class Rejecting(Play):
    """One event is not wanted."""

    async def act(self, cut: Cut) -> None:
        async with self.stage.client.subscribe(self.name, auto_ack=False) as subscription:
            async for event in subscription:
                if event.payload == 1:
                    self.unwanted.append(1)
                    await self.reject(event)
                    self.rejected.append(1)
                else:
                    self.started.append(event.payload)
                    await event.ack()
                    self.done.append(event.payload)
                if len(self.done + self.rejected) == 3:
                    break

    async def reject(self, event: ensync.Event[int]) -> None:
        await event.discard(reason="not wanted")


class RejectingInScopes(Rejecting):
    async def reject(self, event: ensync.Event[int]) -> None:
        with suppress(LookupError):
            async with event.settle(on_error="discard"):
                await fail()


class HandlingWithFailures(Handling):
    """Each handler fails at first."""

    delay = 0.0

    async def prepare(self) -> None:
        await super().prepare()
        self.failed: list[int] = []

    async def begin_to_handle(self, event: ensync.Event[int]) -> None:
        if event.payload not in self.failed:
            self.failed.append(event.payload)
            await fail()


class Pausing(Iterating):
    async def act(self, cut: Cut) -> None:
        async with self.stage.client.subscribe(self.name) as subscription:
            await subscription.pause(reason="for a moment")
            await subscription.resume()
            async with subscription.paused("for another"):
                await anyio.lowlevel.checkpoint()
            await self.take_3(subscription)


class PausingOnly(Iterating):
    """The subscription outlives the cancellation, and goes on."""

    async def prepare(self) -> None:
        self.scope = self.stage.client.subscribe(self.name)
        self.subscription = await self.scope.__aenter__()

    async def act(self, cut: Cut) -> None:
        async with self.subscription.paused("for a moment"):
            await anyio.lowlevel.checkpoint()

    async def come_to_rest(self, cut: Cut) -> None:
        if cut.way.is_native and self.subscription.is_paused:
            await self.subscription.resume()  # nothing could shield it from the cancellation
        assert not self.subscription.is_paused
        await super().prepare()
        await self.take_3(self.subscription)
        await self.scope.__aexit__(None, None, None)
        await super().come_to_rest(cut)
        assert self.done == [0, 1, 2]


class Replaying(Iterating):
    async def act(self, cut: Cut) -> None:
        async with self.stage.client.subscribe(self.name) as subscription:
            first = await take_one(subscription)
            assert (await subscription.replay(first.idem)).payload == 0
            self.started.append(first.payload)
            await first.ack()
            self.done.append(first.payload)
            await self.take_3(subscription)


# Events that can't be read


@dataclass
class Order:
    """What a payload should be."""

    number: int


class DiscardingInvalid(Play):
    """The second event is no order; the next client does not mind."""

    policy: Any = "discard"

    async def prepare(self) -> None:
        events = [{"number": 0}, {"name": 1}, {"number": 2}]
        await publish_all(self.stage.client, self.name, events)

    async def act(self, cut: Cut) -> None:
        self.unwanted.append(1)
        async with self.stage.client.subscribe(
            self.name, payload_type=Order, on_invalid=self.policy
        ) as subscription:
            async for event in subscription:
                await self.acknowledge(event)
                if event.payload.number == 2:
                    break

    async def acknowledge(self, event: ensync.Event[Order]) -> None:
        self.started.append(event.payload.number)
        await event.ack()
        self.done.append(event.payload.number)

    async def check_waiting(self, waiting: list[int]) -> None:
        left = await unsettled_by(self.stage.next_client, self.name)
        assert [number for payload in left for number in payload.values()] == waiting


async def defers(_error: ensync.EnSyncInvalidEventError) -> Verdict:
    await anyio.lowlevel.checkpoint()
    return "defer"


class DeferringInvalid(DiscardingInvalid):
    """An invalid event is put off by a second, longer than a run takes."""

    policy = staticmethod(defers)

    async def check_waiting(self, waiting: list[int]) -> None:
        assert 1 in waiting
        left = await unsettled_by(self.stage.next_client, self.name)
        # Its second may be over in the middle of this: then it comes behind the others.
        numbers = sorted(number for payload in left for number in payload.values())
        assert numbers in (waiting, [number for number in waiting if number != 1])


async def invalid_event(subscription: ensync.Subscription[Order]) -> ensync.RawEvent:
    """The next event, which can't be read."""
    with pytest.raises(ensync.EnSyncInvalidEventError) as raised:
        await take_one(subscription)
    assert raised.value.event is not None
    return raised.value.event


class RaisingInvalid(DiscardingInvalid):
    policy = "raise"

    async def act(self, cut: Cut) -> None:
        self.unwanted.append(1)
        async with self.stage.client.subscribe(self.name, payload_type=Order) as subscription:
            await self.acknowledge(await take_one(subscription))
            await (await invalid_event(subscription)).discard(reason="no order")
            self.rejected.append(1)
            await self.acknowledge(await take_one(subscription))


# While the link is made anew


async def lose_the_link(stage: Stage) -> None:
    """Goes on in the middle of the reconnect."""
    stage.faults.abort_connections()
    await until(lambda: stage.client.state is not ensync.ClientState.CONNECTED)


class PublishingWithoutLink(Play):
    async def prepare(self) -> None:
        self.receipt: ensync.Receipt | None = None

    async def act(self, cut: Cut) -> None:
        cut.wait_for_begin()
        await lose_the_link(self.stage)
        cut.begin()
        self.receipt = await self.stage.client.publish(self.name, [self.stage.client.app_id], 0)

    async def check(self, cut: Cut) -> None:
        """What has a receipt is stored; what has none is there once, or not."""
        stored = await self.stage.stored(self.stage.client.app_id, self.name)
        assert len(stored) == 1 if self.receipt else len(stored) <= 1
        await until(lambda: self.stage.client.state is ensync.ClientState.CONNECTED)


class IteratingWithoutLink(Iterating):
    """With one event acknowledged just before the loss, and one in hand."""

    async def act(self, cut: Cut) -> None:
        cut.wait_for_begin()
        async with self.stage.client.subscribe(self.name) as subscription:
            async for event in subscription:
                self.started.append(event.payload)
                if len(self.started) == 2:
                    await lose_the_link(self.stage)
                    cut.begin()
                    await anyio.lowlevel.checkpoint()
                if len(self.started) == 3:
                    break
                self.done.append(event.payload)


CONTROL_PLAYS: list[type[Play]] = [
    SettlingInScopes,
    GivingBack,
    FailingInScopes,
    Rejecting,
    RejectingInScopes,
    HandlingWithFailures,
    Pausing,
    PausingOnly,
    Replaying,
    DiscardingInvalid,
    DeferringInvalid,
    RaisingInvalid,
    PublishingWithoutLink,
    IteratingWithoutLink,
]
