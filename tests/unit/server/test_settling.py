"""Settling over a store that takes its time, as one with a file does."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import pytest

from ensync.server.apps import AppRegistry
from ensync.server.broker import Broker, Publication
from ensync.server.consumer import Consumer, EndReason
from ensync.server.memory import MemoryStore
from ensync.server.refusal import Reason, Refusal
from ensync.server.store import Found, Lane, Lease, QueueKey, Settled, StoredEvent
from tests.unit.server.brokers import NAME, envelope, settle_down, take, take_what_is_there

pytestmark = pytest.mark.anyio


class SlowStore(MemoryStore):
    """Waits at a gate before it does anything, while there is one; may fail then."""

    gate: anyio.Event | None = None
    failure: Exception | None = None

    async def _pass(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    async def ack(self, lease: Lease) -> Settled:
        await self._pass()
        return await super().ack(lease)

    async def claim(self, idem: str) -> Lease | None:
        await self._pass()
        return await super().claim(idem)

    async def release(self, leases: Iterable[Lease]) -> None:
        await super().release(list(leases))

    async def find(self, idem: str) -> Found | None:
        await self._pass()
        return await super().find(idem)


class Bench:
    def __init__(self, store: SlowStore | None = None) -> None:
        self.store = SlowStore() if store is None else store
        apps = AppRegistry()
        self.app = apps.create("app")
        self.broker = Broker(self.store, apps)
        self.client_id = self.connect()

    def connect(self, connection: str = "connection") -> str:
        return self.broker.connect(self.app.app_key, connection).client_id

    async def publish(self) -> None:
        publication = Publication(NAME, envelope("e"), self.app.app_id)
        await self.broker.publish(self.client_id, publication)

    async def one_in_hand(self) -> tuple[Consumer, StoredEvent]:
        await self.publish()
        consumer = await self.broker.subscribe(self.client_id, NAME)
        [stored] = await take(consumer, 1)
        return consumer, stored

    async def ack(self, stored: StoredEvent, results: list[str]) -> None:
        try:
            await self.broker.ack(self.client_id, stored.idem, stored.block)
        except Refusal as refusal:
            results.append(refusal.reason.name)
        else:
            results.append("done")


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_stream_that_ends_while_its_event_is_acknowledged(bench: Bench) -> None:
    consumer, stored = await bench.one_in_hand()
    results: list[str] = []
    bench.store.gate = anyio.Event()
    other = await bench.broker.subscribe(bench.connect("other"), NAME)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.ack, stored, results)
        await settle_down()
        await consumer.close()
        assert await take_what_is_there(other) == []
        bench.store.gate.set()
    assert results == ["done"]
    assert await take_what_is_there(other) == []
    assert bench.broker.statistics().in_hand == 0


async def test_an_acknowledgement_that_fails_leaves_the_event_in_hand(bench: Bench) -> None:
    consumer, stored = await bench.one_in_hand()
    bench.store.failure = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await bench.broker.ack(bench.client_id, stored.idem, stored.block)
    assert consumer.in_hand == 1
    results: list[str] = []
    await bench.ack(stored, results)
    assert results == ["done"]
    assert consumer.in_hand == 0


async def test_an_acknowledgement_that_fails_after_its_stream_gives_back(bench: Bench) -> None:
    consumer, stored = await bench.one_in_hand()
    bench.store.gate = anyio.Event()
    bench.store.failure = OSError("disk full")
    failures: list[OSError] = []

    async def ack() -> None:
        try:
            await bench.broker.ack(bench.client_id, stored.idem, stored.block)
        except OSError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ack)
        await settle_down()
        await consumer.close()
        bench.store.gate.set()
    assert len(failures) == 1
    other = await bench.broker.subscribe(bench.client_id, NAME)
    assert [event.idem for event in await take(other, 1)] == [stored.idem]


async def test_of_two_acknowledgements_one_fails(bench: Bench) -> None:
    consumer, stored = await bench.one_in_hand()
    other = await bench.broker.subscribe(bench.connect("other"), NAME)
    bench.store.gate = anyio.Event()
    bench.store.failure = OSError("disk full")
    results: list[str] = []

    async def ack() -> None:
        try:
            await bench.ack(stored, results)
        except OSError:
            results.append("failed")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other.take)
        tasks.start_soon(ack)
        tasks.start_soon(ack)
        await settle_down()
        await consumer.close()
        bench.store.gate.set()
        await settle_down()
        assert sorted(results) == ["done", "failed"]
        assert other.in_hand == 0, "what the second was settling was given to another"
        tasks.cancel_scope.cancel()


async def test_a_cancelled_acknowledgement_leaves_the_event_in_hand(bench: Bench) -> None:
    consumer, stored = await bench.one_in_hand()
    bench.store.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.broker.ack, bench.client_id, stored.idem, stored.block)
        await settle_down()
        tasks.cancel_scope.cancel()
    bench.store.gate = None
    assert consumer.in_hand == 1
    await consumer.close()
    other = await bench.broker.subscribe(bench.client_id, NAME)
    assert len(await take(other, 1)) == 1


async def test_two_acknowledgements_of_an_event_that_waits(bench: Bench) -> None:
    consumer, stored = await bench.one_in_hand()
    await consumer.close()
    results: list[str] = []
    bench.store.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.ack, stored, results)
        tasks.start_soon(bench.ack, stored, results)
        await settle_down()
        bench.store.gate.set()
    assert sorted(results) == ["ALREADY", "done"]
    assert bench.broker.statistics().in_hand == 0


async def test_an_event_of_another_store_s_lease_is_told(bench: Bench) -> None:
    consumer, stored = await bench.one_in_hand()
    await consumer.close()
    elsewhere = await bench.store.claim(stored.idem)
    assert elsewhere is not None
    with pytest.raises(Refusal, match="try again") as caught:
        await bench.broker.ack(bench.client_id, stored.idem, stored.block)
    assert caught.value.reason is Reason.LIMIT
    assert bench.broker.statistics().in_hand == 0


async def test_a_lease_that_ended_is_claimed_again(bench: Bench) -> None:
    _, stored = await bench.one_in_hand()
    [held] = bench.broker._settling.in_hand.values()
    await bench.store.release([held.lease])
    results: list[str] = []
    await bench.ack(stored, results)
    assert results == ["done"]


class UnreachableStore(SlowStore):
    async def lane(self, queue: QueueKey) -> Lane:
        await self._pass()
        return await super().lane(queue)


async def test_a_subscription_that_fails_leaves_nothing() -> None:
    store = UnreachableStore()
    bench = Bench(store)
    store.failure = OSError("unreachable")
    with pytest.raises(OSError, match="unreachable"):
        await bench.broker.subscribe(bench.client_id, NAME)
    assert bench.broker.statistics().subscriptions == 0
    store.gate = anyio.Event()
    with anyio.move_on_after(0):
        await bench.broker.subscribe(bench.client_id, NAME)
    assert bench.broker.statistics().subscriptions == 0


async def test_a_client_that_goes_while_it_subscribes() -> None:
    store = UnreachableStore()
    bench = Bench(store)
    store.gate = anyio.Event()
    consumers: list[Consumer] = []

    async def subscribe() -> None:
        consumers.append(await bench.broker.subscribe(bench.client_id, NAME))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(subscribe)
        await settle_down()
        await bench.broker.connection_closed("connection")
        store.gate.set()
    assert consumers[0].end_reason is EndReason.CLIENT_GONE
    assert await consumers[0].take() == []
    assert not store._queues


class Unstoppable(Lane):
    """A lane of a store that can't stop once it has begun to take."""

    def __init__(self, lane: Lane, gate: anyio.Event) -> None:
        self._lane = lane
        self._gate = gate

    async def take(self, max_events: int, max_bytes: int) -> list[Lease]:
        leases: list[Lease] = []
        with anyio.CancelScope(shield=True):
            await self._gate.wait()
            leases += await self._lane.take(max_events, max_bytes)
        return leases

    async def close(self) -> None:
        await self._lane.close()


class UnstoppableStore(SlowStore):
    async def lane(self, queue: QueueKey) -> Lane:
        lane = await super().lane(queue)
        return lane if self.gate is None else Unstoppable(lane, self.gate)


async def test_what_is_taken_after_the_end_is_given_back() -> None:
    store = UnstoppableStore()
    bench = Bench(store)
    await bench.publish()
    gate = store.gate = anyio.Event()
    consumer = await bench.broker.subscribe(bench.client_id, NAME)
    store.gate = None
    taken: list[StoredEvent] = []

    async def take_once() -> None:
        taken.extend(await consumer.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_once)
        await settle_down()
        await consumer.close()
        gate.set()
    assert taken == []
    other = await bench.broker.subscribe(bench.client_id, NAME)
    assert len(await take(other, 1)) == 1
