"""A cancellation, at whichever checkpoint, is neither an acknowledgement nor a discard."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio_asyncio

import ensync
from ensync.server.local import LocalEngine
from ensync.server.store import EventState, QueueKey
from ensync.testing import Faults
from ensync.transports.bridge import being_cancelled
from tests.conformance.harness import PATIENCE, Target, publish_all, unsettled_by
from tests.faults.census import Census
from tests.faults.checkpoints import Cut, Way, run
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio

AT_ONCE = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=None)


class Stage:
    """What outlives all runs: an engine, the client of the runs, and the next client."""

    def __init__(
        self,
        target: Target,
        engine: LocalEngine,
        client: ensync.EnSyncClient,
        next_client: ensync.EnSyncClient,
        census: Census,
    ) -> None:
        self.target = target
        self.engine = engine
        self.client = client
        self.next_client = next_client
        self.census = census
        apps = [engine.create_app(name) for name in ("third", "fourth")]
        self.recipients = [client.app_id, *(app.app_id for app in apps)]

    async def stored(self, app_id: str, name: str) -> list[EventState]:
        """What the engine has of a name, in the order of publishing."""
        found = await self.engine.broker.store.browse(QueueKey(app_id, name))
        return [each.state for each in found]

    async def until_quiet(self) -> None:
        """Waits until the engine knows that the run is over."""
        engine = self.engine
        await until(lambda: not engine.statistics().in_hand | engine.statistics().subscriptions)


class Play(ABC):
    """One run of a scenario. The events are 0, 1 and 2, so is their order at the engine."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.started: list[int] = []
        self.done: list[int] = []

    async def prepare(self) -> None:
        await publish_all(self.stage.client, self.name, range(3))

    @abstractmethod
    async def act(self, cut: Cut) -> None:
        """What is cancelled."""

    async def check(self, cut: Cut) -> None:
        """Nothing is lost, nothing is settled that was not done, the rest comes once."""
        states = await self.stage.stored(self.stage.client.app_id, self.name)
        settled = [n for n, state in enumerate(states) if state is EventState.ACKNOWLEDGED]
        waiting = [n for n, state in enumerate(states) if state is EventState.OPEN]
        assert sorted(settled + waiting) == [0, 1, 2]
        assert set(settled) <= set(self.started)
        assert cut.way.is_native or set(self.done) <= set(settled)
        assert await unsettled_by(self.stage.next_client, self.name) == waiting


class Iterating(Play):
    async def act(self, cut: Cut) -> None:
        async with self.stage.client.subscribe(self.name) as subscription:
            await self.take_3(subscription)

    async def take_3(self, subscription: ensync.Subscription[Any]) -> None:
        async for event in subscription:
            await anyio.lowlevel.checkpoint()
            self.started.append(event.payload)
            if being_cancelled() and len(self.started) == 3:
                break  # nobody can tell this from a cancellation
            self.done.append(event.payload)
            if len(self.done) == 3:
                break


class Leaving(Iterating):
    """With two acknowledgements on their way and one to be sent."""

    async def act(self, cut: Cut) -> None:
        cut.wait_for_begin()
        async with self.stage.client.subscribe(self.name) as subscription:
            await self.take_3(subscription)
            cut.begin()


class AcknowledgingByHand(Play):
    async def act(self, cut: Cut) -> None:
        async with self.stage.client.subscribe(self.name, auto_ack=False) as subscription:
            async for event in subscription:
                self.started.append(event.payload)
                await event.ack()
                self.done.append(event.payload)
                if len(self.done) == 3:
                    break


class Handling(Play):
    async def act(self, cut: Cut) -> None:
        all_done = anyio.Event()

        async def handle(event: ensync.Event[int]) -> None:
            await anyio.lowlevel.checkpoint()
            self.started.append(event.payload)
            self.done.append(event.payload)
            if len(self.done) == 3:
                all_done.set()

        async def end_when_done() -> None:
            await all_done.wait()
            await subscription.unsubscribe()

        async with (
            self.stage.client.subscribe(self.name) as subscription,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(end_when_done)
            await subscription.for_each(handle, concurrency=2)


class WholeProgram(Iterating):
    """From connecting to leaving."""

    async def prepare(self) -> None:
        """The program publishes by itself."""

    async def act(self, cut: Cut) -> None:
        # The engine has opened a loop for asyncio's code; a program elsewhere opens its own.
        loop_of_engine = trio_asyncio.current_loop.set(None)
        try:
            await self.connect_and_leave()
        finally:
            trio_asyncio.current_loop.reset(loop_of_engine)

    async def connect_and_leave(self) -> None:
        async with self.stage.target.connect() as client:
            await publish_all(client, self.name, range(3))
            async with client.subscribe(self.name) as subscription:
                await self.take_3(subscription)

    async def check(self, cut: Cut) -> None:
        states = await self.stage.stored(self.stage.client.app_id, self.name)
        for number in range(len(states), 3):
            await publish_all(self.stage.client, self.name, [number])
        await super().check(cut)


class Publishing(Play):
    recipients = 1

    async def prepare(self) -> None:
        self.receipt: ensync.Receipt | None = None

    async def act(self, cut: Cut) -> None:
        recipients = self.stage.recipients[: self.recipients]
        self.receipt = await self.stage.client.publish(self.name, recipients, 0)

    async def check(self, cut: Cut) -> None:
        """What has a receipt is stored, and nothing is twice."""
        counts = [
            len(await self.stage.stored(app_id, self.name))
            for app_id in self.stage.recipients[: self.recipients]
        ]
        assert set(counts) <= {0, 1}
        assert self.receipt is None or set(counts) == {1}


class PublishingToThree(Publishing):
    recipients = 3


PLAYS = [
    Publishing,
    PublishingToThree,
    Iterating,
    AcknowledgingByHand,
    Handling,
    Leaving,
    WholeProgram,
]


async def play(stage: Stage, kind: type[Play], way: Way, at: int) -> Cut:
    """One run, and what is to be so after it."""
    one = kind(stage, f"{way.name}/{at}")
    await one.prepare()
    with anyio.fail_after(PATIENCE):
        cut = await run(one.act, way, at)
    await stage.until_quiet()
    await one.check(cut)
    await stage.census.is_the_same_again()
    return cut


async def play_at_each(stage: Stage, kind: type[Play], way: Way) -> int:
    """Runs until one comes to its end before it is cancelled; returns how many were."""
    for at in itertools.count(1):
        cut = await play(stage, kind, way, at)
        if not cut.happened:
            return at - 1
    raise AssertionError


async def try_each_checkpoint(
    target: Target, engine: LocalEngine, kind: type[Play], ways: Iterable[Way]
) -> None:
    async with (
        target.connect(reconnect=AT_ONCE) as client,
        target.connect(reconnect=AT_ONCE) as next_client,
    ):
        stage = Stage(target, engine, client, next_client, await Census.at_rest())
        for way in ways:
            tried = await play_at_each(stage, kind, way)
            print(f"{kind.__name__}, {way.value}: {tried} checkpoints")
            assert tried


each_play = pytest.mark.parametrize("kind", PLAYS, ids=lambda kind: kind.__name__)


@each_play
async def test_a_scope_cancelled_at_each_checkpoint(
    target: Target, engine: LocalEngine, kind: type[Play]
) -> None:
    await try_each_checkpoint(target, engine, kind, [Way.SUSPENDING, Way.RESUMING])


@each_play
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_cancelled_at_each_checkpoint(
    target: Target, engine: LocalEngine, kind: type[Play]
) -> None:
    """As ``asyncio.timeout()`` and the end of ``asyncio.run()`` do it."""
    await try_each_checkpoint(target, engine, kind, [Way.NATIVE, Way.NATIVE_RESUMING])


async def test_a_cancellation_wins_over_the_loss_of_the_link_that_it_caused(
    client: ensync.EnSyncClient, faults: Faults
) -> None:
    """A WebSocket is reset with a request of which nobody wants the reply any more."""
    faults.hold("publish", count=None)
    first, both = anyio.CancelScope(), anyio.CancelScope()

    async def publish_first() -> None:
        try:
            with first:
                await client.publish("orders", [client.app_id], 1)
        finally:
            both.cancel()

    with anyio.fail_after(PATIENCE), both:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish_first)
            tasks.start_soon(client.publish, "orders", [client.app_id], 2)
            await faults.wait_calls("publish", 2)
            first.cancel()
    assert both.cancelled_caught
