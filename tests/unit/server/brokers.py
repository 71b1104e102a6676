"""A broker with a clock of its own, and what tests do with it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel

from ensync.server.apps import App, AppRegistry
from ensync.server.broker import Broker, Limits, Publication
from ensync.server.consumer import Consumer, Credit
from ensync.server.memory import MemoryStore
from ensync.server.store import QueueCounts, StoredEvent, StoreFailedError

NAME = "orders/paid"
TURNS = 10
DEFAULT_CREDIT = Credit()


def envelope(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def text_of(stored: StoredEvent) -> str:
    return base64.b64decode(stored.event.payload).decode()


class FullDisk(MemoryStore):
    """Can't even count."""

    async def count_queues(self) -> list[QueueCounts]:
        raise StoreFailedError("the engine's disk is full")


class TestBroker:
    """A broker, its store and two apps, under a clock that only moves when told."""

    __test__ = False

    def __init__(
        self, *, credit: Credit = DEFAULT_CREDIT, store_bytes: int = 1 << 24, **limits: int
    ) -> None:
        self.seconds = 1_000.0
        self.apps = AppRegistry()
        idems = count()
        self.store = MemoryStore(
            now_ms=self.now_ms, new_idem=lambda: f"event-{next(idems)}", max_bytes=store_bytes
        )
        self.broker = Broker(
            self.store,
            self.apps,
            limits=Limits(**limits, credit=credit),
            clock=lambda: self.seconds,
            now_ms=self.now_ms,
        )
        self.shop = self.apps.create("shop")
        self.billing = self.apps.create("billing")
        self._connections = count()

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.store.bring_back_due()

    def connect(self, app: App, connection: object = None) -> str:
        if connection is None:
            connection = f"connection {next(self._connections)}"
        return self.broker.connect(app.app_key, connection).client_id

    async def publish(self, text: str = "e", event_name: str = NAME, metadata: str = "{}") -> str:
        """Publishes from the shop to billing. Returns the event's id."""
        client_id = self.connect(self.shop)
        publication = self.publication(text, event_name=event_name, metadata=metadata)
        return (await self.broker.publish(client_id, publication)).idem

    async def publish_many(self, number: int) -> list[str]:
        return [await self.publish(f"e{index}") for index in range(number)]

    def publication(self, text: str = "e", **changes: Any) -> Publication:
        return Publication(NAME, envelope(text), self.billing.app_id)._replace(**changes)

    async def subscriber(self, event_name: str = NAME) -> tuple[str, Consumer]:
        """A client of billing's with a subscription."""
        client_id = self.connect(self.billing)
        return client_id, await self.broker.subscribe(client_id, event_name)


async def take(consumer: Consumer, number: int) -> list[StoredEvent]:
    """Takes so many events, in whatever batches."""
    taken: list[StoredEvent] = []
    with anyio.fail_after(5):
        while len(taken) < number:
            batch = await consumer.take()
            assert batch, f"the consumer has ended: {consumer.end_reason}"
            taken += batch
    return taken


async def take_what_is_there(consumer: Consumer) -> list[StoredEvent]:
    """Takes until the consumer would have to wait."""
    taken: list[StoredEvent] = []

    async def take_on() -> None:
        while batch := await consumer.take():
            taken.extend(batch)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_on)
        await settle_down()
        tasks.cancel_scope.cancel()
    return taken


async def settle_down() -> None:
    """Lets all tasks run until they wait."""
    for _ in range(TURNS):
        await anyio.lowlevel.checkpoint()


def texts(events: Iterable[StoredEvent]) -> list[str]:
    return [text_of(event) for event in events]
