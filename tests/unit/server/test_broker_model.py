"""Random histories of a broker, compared with a model of what has to be."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensync.server.consumer import Consumer, Credit
from ensync.server.refusal import Refusal
from tests.unit.server.brokers import NAME, TestBroker, take_what_is_there

T = TypeVar("T")

CREDIT = 4

WAITING, SETTLED = "waiting", "settled"


class Subscriber:
    """A client of the receiving app, as the model sees it."""

    def __init__(self, client_id: str, connection: str) -> None:
        self.client_id = client_id
        self.connection = connection
        self.consumer: Consumer | None = None
        self.paused = False


class History:
    """Does to a broker whatever is drawn, and knows what must come of it."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.bench = TestBroker(credit=Credit(events=CREDIT))
        self.subscribers: list[Subscriber] = []
        self.connections = 0
        # Where each event is: waiting, settled, in the hand of a subscriber, or due at a time.
        self.places: dict[str, str | float | Subscriber] = {}
        self.blocks: dict[str, int] = {}
        self.acknowledged: set[str] = set()

    async def run(self) -> None:
        steps = [
            self.publish,
            self.publish,
            self.connect,
            self.subscribe,
            self.take,
            self.take,
            self.ack,
            self.discard,
            self.defer,
            self.rollback,
            self.replay,
            self.pause,
            self.resume,
            self.close_stream,
            self.lose_connection,
            self.let_time_pass,
        ]
        for step in self.data.draw(st.lists(st.sampled_from(steps), max_size=40)):
            await step()
            self.check()
        await self.drain()

    # Steps

    async def publish(self) -> None:
        idem = await self.bench.publish(str(len(self.places)))
        self.blocks[idem] = len(self.places)
        self.places[idem] = WAITING

    async def connect(self) -> None:
        self.connections += 1
        connection = f"subscriber {self.connections}"
        client_id = self.bench.connect(self.bench.billing, connection)
        self.subscribers.append(Subscriber(client_id, connection))

    async def subscribe(self) -> None:
        if subscriber := self.pick(self.subscribers):
            subscriber.consumer = await self.bench.broker.subscribe(subscriber.client_id, NAME)
            self.give_back(subscriber)

    async def take(self) -> None:
        if subscriber := self.pick(self.with_stream()):
            assert subscriber.consumer is not None
            taken = [event.idem for event in await take_what_is_there(subscriber.consumer)]
            assert taken == self.expected(subscriber)
            for idem in taken:
                self.places[idem] = subscriber

    async def ack(self) -> None:
        async def action(client_id: str, idem: str) -> None:
            await self.bench.broker.ack(client_id, idem, self.blocks[idem], NAME)
            self.acknowledged.add(idem)

        await self.settle(action, SETTLED)

    async def discard(self) -> None:
        await self.settle(self.bench.broker.discard, SETTLED)

    async def defer(self) -> None:
        delay = self.data.draw(st.sampled_from([0, 1, 5]))

        async def action(client_id: str, idem: str) -> None:
            await self.bench.broker.defer(client_id, idem, delay * 1000)

        await self.settle(action, self.bench.seconds + delay if delay else WAITING)

    async def rollback(self) -> None:
        async def action(client_id: str, idem: str) -> None:
            await self.bench.broker.rollback(client_id, idem, self.blocks[idem])

        await self.settle(action, WAITING)

    async def replay(self) -> None:
        """Any client may read any event again, and nothing comes of it."""
        subscriber, idem = self.pick(self.subscribers), self.pick(list(self.places))
        if subscriber is None or idem is None:
            return
        replayed = await self.bench.broker.replay(subscriber.client_id, idem, NAME)
        assert (replayed.idem, replayed.block) == (idem, self.blocks[idem])
        metadata = json.loads(replayed.event.metadata)
        told = metadata["$internal"]["replay_info"]["was_acknowledged"]["content"]
        assert told == str(idem in self.acknowledged).lower()

    async def settle(
        self, action: Callable[[str, str], Awaitable[None]], place: str | float
    ) -> None:
        """Any client may settle any event of its app, wherever the event is."""
        subscriber, idem = self.pick(self.subscribers), self.pick(list(self.places))
        if subscriber is None or idem is None:
            return
        if self.places[idem] == SETTLED:
            with pytest.raises(Refusal, match="already"):
                await action(subscriber.client_id, idem)
            return
        await action(subscriber.client_id, idem)
        self.places[idem] = place

    async def pause(self) -> None:
        if subscriber := self.pick(self.with_stream()):
            self.bench.broker.pause(subscriber.client_id, NAME)
            subscriber.paused = True

    async def resume(self) -> None:
        if subscriber := self.pick(self.with_stream()):
            self.bench.broker.resume(subscriber.client_id, NAME)
            subscriber.paused = False

    async def close_stream(self) -> None:
        if subscriber := self.pick(self.with_stream()):
            assert subscriber.consumer is not None
            await subscriber.consumer.close()
            subscriber.consumer = None
            self.give_back(subscriber)

    async def lose_connection(self) -> None:
        if subscriber := self.pick(self.subscribers):
            await self.bench.broker.connection_closed(subscriber.connection)
            self.subscribers.remove(subscriber)
            self.give_back(subscriber)

    async def let_time_pass(self) -> None:
        self.bench.advance(self.data.draw(st.sampled_from([1, 3, 10])))
        for idem, place in self.places.items():
            if isinstance(place, float) and place <= self.bench.seconds:
                self.places[idem] = WAITING

    # What has to be

    def expected(self, subscriber: Subscriber) -> list[str]:
        if subscriber.paused:
            return []
        waiting = [idem for idem, place in self.places.items() if place == WAITING]
        in_hand = sum(place is subscriber for place in self.places.values())
        return sorted(waiting, key=self.blocks.__getitem__)[: CREDIT - in_hand]

    def check(self) -> None:
        in_hand = sum(isinstance(place, Subscriber) for place in self.places.values())
        assert self.bench.broker.statistics().in_hand == in_hand
        for subscriber in self.with_stream():
            assert subscriber.consumer is not None
            held = sum(place is subscriber for place in self.places.values())
            assert subscriber.consumer.in_hand == held

    async def drain(self) -> None:
        """In the end, each event that is not settled comes once, and no other."""
        for subscriber in self.subscribers:
            await self.bench.broker.connection_closed(subscriber.connection)
        self.bench.advance(100)
        client_id, consumer = await self.bench.subscriber()
        rest: list[str] = []
        while events := await take_what_is_there(consumer):
            for event in events:
                rest.append(event.idem)
                await self.bench.broker.ack(client_id, event.idem, event.block)
        unsettled = [idem for idem, place in self.places.items() if place != SETTLED]
        assert rest == sorted(unsettled, key=self.blocks.__getitem__)

    # Helpers

    def pick(self, choices: list[T]) -> T | None:
        return self.data.draw(st.sampled_from(choices)) if choices else None

    def with_stream(self) -> list[Subscriber]:
        return [subscriber for subscriber in self.subscribers if subscriber.consumer]

    def give_back(self, subscriber: Subscriber) -> None:
        for idem, place in self.places.items():
            if place is subscriber:
                self.places[idem] = WAITING


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=150)
@given(data=st.data())
def test_nothing_is_lost_doubled_or_out_of_order(backend: str, data: st.DataObject) -> None:
    async def run() -> None:
        await History(data).run()

    anyio.run(run, backend=backend)
