"""What is cut at each of its checkpoints: publishing, and taking and acknowledging events."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import trio_asyncio

import ensync
from tests.conformance.harness import publish_all
from tests.faults.checkpoint_stage import Iterating, Play
from tests.faults.checkpoints import Cut

__all__ = ["DELIVERY_PLAYS", "Handling"]


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
    delay = 5.0  # seconds, of an event whose handler fails

    async def begin_to_handle(self, event: ensync.Event[int]) -> None:
        """May fail."""

    async def act(self, cut: Cut) -> None:
        all_done = anyio.Event()

        async def handle(event: ensync.Event[int]) -> None:
            await self.begin_to_handle(event)
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
            await subscription.for_each(handle, concurrency=2, delay=self.delay)


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


DELIVERY_PLAYS: list[type[Play]] = [
    Publishing,
    PublishingToThree,
    Iterating,
    AcknowledgingByHand,
    Handling,
    Leaving,
    WholeProgram,
]
