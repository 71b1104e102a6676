"""What ``ensync demo`` does: events from one app to another, each of them checked."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any

import anyio

from ensync.address import TransportName
from ensync.client import EnSyncClient
from ensync.engine import connect
from ensync.event import Event, OutgoingEvent
from ensync.scopes import background_tasks, single_error_bare
from ensync.server.apps import App
from ensync.server.local import LocalEngine
from ensync.server.store import EventState, QueueKey
from ensync.subscription import Subscription

__all__ = ["Demo", "DemoError", "DemoSummary"]

EVENT_NAME = "demo/orders/created"
# How many events may be on their way at a time. Without a bound, the latency
# measured would be that of an ever longer queue.
UNDER_WAY = 256
FILLER = "x" * 150


class DemoError(Exception):
    """Something did not come out as it must. The text says what."""


@dataclass(frozen=True)
class DemoSummary:
    """What the demo found. Durations are seconds, ``rate`` is events per second."""

    events: int
    duration: float
    rate: float
    latency_p50: float
    latency_p99: float
    redeliveries: int


class Demo:
    """One run: a shop publishes orders, billing consumes them, a local engine is between.

    Args:
        total: How many events.
        transport: How both apps reach the engine.
        patience: After how many seconds without any event the run has failed.

    Attributes:
        total: How many events there are to be.
        published: How many of them the engine has accepted.
        received: How many of them billing was handed, decrypted.
    """

    def __init__(self, total: int, transport: TransportName, *, patience: float = 30.0) -> None:
        self.total = total
        self.published = 0
        self.received = 0
        self._transport: TransportName = transport
        self._patience = patience
        self._sent_at: list[float] = []
        self._latencies: list[float] = []
        self._seen = bytearray(total)
        self._subscription: Subscription[Any] | None = None

    @property
    def acknowledged(self) -> int:
        """How many acknowledgements the engine has confirmed."""
        return 0 if self._subscription is None else self._subscription.statistics().acknowledged

    async def run(self) -> DemoSummary:
        """Runs it.

        Raises:
            DemoError: An event was lost, changed, doubled or not acknowledged.
            EnSyncError: Something failed on the way.
        """
        async with LocalEngine() as engine:
            shop, billing = engine.create_app("shop"), engine.create_app("billing")
            async with self._client(engine, shop) as seller, self._client(engine, billing) as buyer:
                started = anyio.current_time()
                await self._flow(seller, buyer)
                duration = anyio.current_time() - started
            await self._check(engine, billing)
            return self._summary(duration, engine.statistics().redelivered)

    def _client(self, engine: LocalEngine, app: App) -> AbstractAsyncContextManager[EnSyncClient]:
        url = engine.url if self._transport == "grpc" else engine.websocket_url
        return connect(url, app_key=app.app_key, app_secret_key=app.secret_key)

    async def _flow(self, seller: EnSyncClient, buyer: EnSyncClient) -> None:
        room = anyio.Semaphore(UNDER_WAY)
        orders = self._orders(buyer.app_id, room)
        async with buyer.subscribe(EVENT_NAME) as subscription, background_tasks() as watch:
            self._subscription = subscription
            watch.start_soon(self._fail_when_stuck)
            async with single_error_bare(), anyio.create_task_group() as tasks:
                tasks.start_soon(self._publish, seller, orders)
                await self._consume(subscription, room)

    async def _orders(self, app_id: str, room: anyio.Semaphore) -> AsyncGenerator[OutgoingEvent]:
        for number in range(self.total):
            await room.acquire()
            self._sent_at.append(anyio.current_time())
            yield OutgoingEvent(EVENT_NAME, (app_id,), _order(number))

    async def _publish(self, seller: EnSyncClient, orders: AsyncGenerator[OutgoingEvent]) -> None:
        async with aclosing(orders), seller.publish_many(orders) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()
                self.published += 1

    async def _consume(self, subscription: Subscription[Any], room: anyio.Semaphore) -> None:
        async for event in subscription:
            self._record(event)
            room.release()
            if self.received == self.total:
                return

    def _record(self, event: Event[Any]) -> None:
        number: int = event.payload["number"]
        if event.payload != _order(number):
            raise DemoError(f"event {number} is not what was published")
        if self._seen[number]:
            raise DemoError(f"event {number} was handed out twice")
        self._seen[number] = True
        self.received += 1
        self._latencies.append(anyio.current_time() - self._sent_at[number])

    async def _fail_when_stuck(self) -> None:
        before = -1
        while self.received != before:
            before = self.received
            await anyio.sleep(self._patience)
        raise DemoError(
            f"nothing has arrived for {self._patience:g} seconds: "
            f"{self.received} of {self.total} events did before"
        )

    async def _check(self, engine: LocalEngine, receiver: App) -> None:
        """Compares with what the engine itself knows."""
        statistics = engine.statistics()
        stored = await engine.broker.store.browse(QueueKey(receiver.app_id, EVENT_NAME))
        counts = {
            "stored": statistics.published,
            "handed out": statistics.delivered - statistics.redelivered,
            "acknowledged": statistics.acknowledged,
            "confirmed to the subscription": self.acknowledged,
        }
        for what, count in counts.items():
            if count != self.total:
                raise DemoError(f"{self.total} events were published, but {count} were {what}")
        left = sum(found.state is EventState.OPEN for found in stored) + statistics.in_hand
        if left:
            raise DemoError(f"{left} events are left in the engine, unsettled")

    def _summary(self, duration: float, redeliveries: int) -> DemoSummary:
        latencies = sorted(self._latencies)
        return DemoSummary(
            events=self.total,
            duration=duration,
            rate=self.total / duration,
            latency_p50=_percentile(latencies, 50),
            latency_p99=_percentile(latencies, 99),
            redeliveries=redeliveries,
        )


def _order(number: int) -> dict[str, object]:
    return {
        "number": number,
        "order_id": f"order-{number}",
        "amount": number * 25 % 10_000 / 100,
        "note": FILLER,
    }


def _percentile(ascending: Sequence[float], percent: int) -> float:
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]
