"""A publisher and a consumer that are to notice nothing of what is done to their engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

import ensync
from ensync.server.local import LocalEngine
from tests.conformance.harness import Keys, Target, address

__all__ = ["Bystanders"]

PATIENCE = 20.0
NAME = "orders/paid"
END = -1


@dataclass
class Bystanders:
    """A pair over one transport, and how it fared.

    Attributes:
        numbers: Those of the events that have arrived.
        slowest: The longest time from a publish to its event's arrival, in seconds.
    """

    transport: str
    numbers: list[int] = field(default_factory=list[int])
    slowest: float = 0.0

    async def live(self, engine: LocalEngine, beats: MemoryObjectReceiveStream[None]) -> None:
        """Publishes an event at each beat, until there are no more of them.

        Raises:
            AssertionError: An event was lost, doubled, late, or not acknowledged, or a
                client had to connect again.
        """
        keys, other = (Keys.of(engine.create_app(f"{self.transport} {end}")) for end in "ab")
        target = Target(address(engine, self.transport), keys, other)
        async with (
            target.connect() as consumer,
            target.connect(other) as publisher,
            consumer.subscribe(NAME) as subscription,
            anyio.create_task_group() as tasks,
        ):
            for client in (consumer, publisher):
                tasks.start_soon(_stay_connected, client)
            tasks.start_soon(self._publish, publisher, consumer.app_id, beats)
            await self._consume(subscription)
            tasks.cancel_scope.cancel()
        self._check(subscription.statistics())

    async def _publish(
        self,
        client: ensync.EnSyncClient,
        app_id: str,
        beats: MemoryObjectReceiveStream[None],
    ) -> None:
        number = 0
        async with beats:
            async for _ in beats:
                await _publish(client, app_id, number)
                number += 1
        await _publish(client, app_id, END)

    async def _consume(self, subscription: ensync.Subscription[Any]) -> None:
        async for event in subscription:
            late = anyio.current_time() - event.payload["at"]
            assert late < PATIENCE
            self.slowest = max(self.slowest, late)
            if event.payload["number"] == END:
                return
            self.numbers.append(event.payload["number"])

    def _check(self, statistics: ensync.SubscriptionStatistics) -> None:
        count = len(self.numbers)
        assert self.numbers == list(range(count))
        assert (statistics.received, statistics.acknowledged) == (count + 1, count + 1)
        assert (statistics.duplicates, statistics.unconfirmed, statistics.refused) == (0, 0, 0)


async def _publish(client: ensync.EnSyncClient, app_id: str, number: int) -> None:
    with anyio.fail_after(PATIENCE):
        await client.publish(NAME, [app_id], {"number": number, "at": anyio.current_time()})


async def _stay_connected(client: ensync.EnSyncClient) -> None:
    async for state in client.states():
        assert state is ensync.ClientState.CONNECTED
