"""Where scenarios are cancelled at each of their checkpoints, and what has to be so after it."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import anyio
import anyio.lowlevel

import ensync
from ensync.server.local import LocalEngine
from ensync.server.store import EventState, QueueKey
from ensync.testing import Faults
from ensync.transports.bridge import being_cancelled
from tests.conformance.harness import PATIENCE, Target, publish_all, unsettled_by
from tests.faults.census import Census
from tests.faults.checkpoints import Cut, Way, run
from tests.unit.server.grpc_client import until

__all__ = ["Iterating", "Play", "Stage", "try_each_checkpoint"]

AT_ONCE = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=None)


class Stage:
    """What outlives all runs: an engine, the client of the runs, and the next client."""

    def __init__(
        self,
        target: Target,
        engine: LocalEngine,
        faults: Faults,
        client: ensync.EnSyncClient,
        next_client: ensync.EnSyncClient,
        census: Census,
    ) -> None:
        self.target = target
        self.engine = engine
        self.faults = faults
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
    """One run of a scenario. The events are 0, 1 and 2, so is their order at the engine.

    Attributes:
        started: Events whose work may be taken for done.
        done: Events that were certainly settled by that.
        unwanted: Events that may be discarded.
        rejected: Events that certainly were.
    """

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.started: list[int] = []
        self.done: list[int] = []
        self.unwanted: list[int] = []
        self.rejected: list[int] = []

    async def prepare(self) -> None:
        await publish_all(self.stage.client, self.name, range(3))

    @abstractmethod
    async def act(self, cut: Cut) -> None:
        """What is cancelled."""

    async def come_to_rest(self, _cut: Cut) -> None:
        """Waits until the run is over for the engine, too."""
        await self.stage.until_quiet()

    async def check(self, cut: Cut) -> None:
        """Nothing is lost, nothing is settled that was not done, the rest comes once."""
        states = await self.stage.stored(self.stage.client.app_id, self.name)
        settled, discarded, waiting = (
            [number for number, state in enumerate(states) if state is wanted]
            for wanted in (EventState.ACKNOWLEDGED, EventState.DISCARDED, EventState.OPEN)
        )
        assert sorted(settled + discarded + waiting) == [0, 1, 2]
        assert set(settled) <= set(self.started)
        assert set(discarded) <= set(self.unwanted)
        if not cut.way.is_native:
            assert set(self.done) <= set(settled)
            assert set(self.rejected) <= set(discarded)
        await self.check_waiting(waiting)

    async def check_waiting(self, waiting: list[int]) -> None:
        """What is open comes to the next client, once."""
        # What was given back takes its place again, which depends on when that was.
        assert sorted(await unsettled_by(self.stage.next_client, self.name)) == waiting


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


async def play(stage: Stage, kind: type[Play], way: Way, at: int) -> Cut:
    """One run, and what is to be so after it."""
    one = kind(stage, f"{way.name}/{at}")
    await one.prepare()
    with anyio.fail_after(PATIENCE):
        cut = await run(one.act, way, at)
    with anyio.fail_after(PATIENCE):
        await one.come_to_rest(cut)
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
    target: Target,
    engine: LocalEngine,
    faults: Faults,
    kind: type[Play],
    ways: Iterable[Way],
) -> None:
    """Runs a play once for each of its checkpoints, in each of these ways."""
    async with (
        target.connect(reconnect=AT_ONCE) as client,
        target.connect(reconnect=AT_ONCE) as next_client,
    ):
        stage = Stage(target, engine, faults, client, next_client, await Census.at_rest())
        for way in ways:
            tried = await play_at_each(stage, kind, way)
            print(f"{kind.__name__}, {way.value}: {tried} checkpoints")
            assert tried
