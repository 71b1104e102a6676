from __future__ import annotations

from typing import Any

import anyio
import pytest

from ensync.server.memory import MemoryStore
from ensync.server.retention import Retention
from ensync.server.store import EventState, Lease, StoredEvent, StoreFullError
from tests.conformance.store_contract import BILLING, StoreContract, StoreHarness, new_event

pytestmark = pytest.mark.anyio


class MemoryHarness(StoreHarness):
    def __init__(self, **options: Any) -> None:
        self.now_ms = 1_700_000_000_000
        self.memory = self.store = MemoryStore(now_ms=lambda: self.now_ms, **options)

    async def advance(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        self.memory.bring_back_due()


@pytest.fixture
def harness() -> MemoryHarness:
    return MemoryHarness()


class TestMemoryStore(StoreContract):
    pass


async def take_and_ack(harness: MemoryHarness) -> Lease:
    [lease] = await harness.take()
    await harness.store.ack(lease)
    return lease


async def test_the_first_block_is_zero(harness: MemoryHarness) -> None:
    assert (await harness.append()).block == 0


async def test_only_the_latest_settled_events_are_kept() -> None:
    harness = MemoryHarness(retention=Retention(events=3))
    stored: list[StoredEvent] = []
    for number in range(5):
        stored.append(await harness.append(f"e{number}"))
        await take_and_ack(harness)
    waiting = await harness.append("waiting")
    found = await harness.store.browse(BILLING)
    assert [each.stored for each in found] == [*stored[2:], waiting]
    assert await harness.store.find(stored[0].idem) is None


async def test_settled_events_are_kept_up_to_a_size() -> None:
    harness = MemoryHarness(retention=Retention(bytes=30_000))
    for _ in range(5):
        await harness.append("x" * 9_000)
        await take_and_ack(harness)
    assert len(await harness.store.browse(BILLING)) == 2


async def test_settled_events_are_kept_up_to_an_age() -> None:
    harness = MemoryHarness(retention=Retention(age=60))
    stored = await harness.append()
    await harness.advance(100_000)
    await take_and_ack(harness)
    await harness.advance(59_000)
    assert await harness.store.find(stored.idem) is not None
    await harness.advance(2_000)
    assert await harness.store.find(stored.idem) is None


async def test_settled_events_make_room_for_new_ones() -> None:
    harness = MemoryHarness(max_bytes=100_000)
    for _ in range(100):
        await harness.append("x" * 9_000)
        await take_and_ack(harness)
    assert len(await harness.store.browse(BILLING)) < 10


async def test_open_events_are_never_dropped_to_make_room() -> None:
    harness = MemoryHarness(max_bytes=100_000)
    with pytest.raises(StoreFullError, match="full"):
        for _ in range(100):
            await harness.append("x" * 9_000)
    kept = await harness.store.browse(BILLING)
    assert len(kept) == 9
    assert all(each.state is EventState.OPEN for each in kept)
    await take_and_ack_all(harness)
    await harness.append("room again")


async def take_and_ack_all(harness: MemoryHarness) -> None:
    for lease in await harness.take():
        await harness.store.ack(lease)


async def test_what_is_not_to_persist_gives_its_room_back() -> None:
    harness = MemoryHarness(max_bytes=30_000)
    for _ in range(12):
        await harness.store.append(new_event("x" * 10_000, persist=False))
        await take_and_ack(harness)
    assert len(await harness.store.browse(BILLING)) == 12


async def test_giving_back_for_ever_takes_no_memory(harness: MemoryHarness) -> None:
    stored = await harness.append()
    for _ in range(1000):
        lease = await harness.store.claim(stored.idem)
        assert lease is not None
        await harness.store.defer(lease, 0)
    assert len(harness.memory._queues[BILLING]._ready) == 1


async def test_an_unused_queue_takes_no_memory(harness: MemoryHarness) -> None:
    lane = await harness.store.lane(BILLING)
    await harness.append()
    await take_and_ack(harness)
    assert harness.memory._queues
    await lane.close()
    assert not harness.memory._queues
    await harness.append()
    await take_and_ack(harness)
    assert not harness.memory._queues


@pytest.mark.mock_clock
async def test_deferred_events_come_back_by_themselves() -> None:
    store = MemoryStore(now_ms=lambda: int(anyio.current_time() * 1000))
    harness = MemoryHarness()
    harness.store = store
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        due: list[str] = []
        for delay_ms, text in ((60_000, "later"), (20_000, "sooner"), (40_000, "between")):
            await harness.append(text)
            [lease] = await harness.take()
            await store.defer(lease, delay_ms)
        lane = await store.lane(BILLING)
        while len(due) < 3:
            due += [lease.stored.event.payload for lease in await lane.take(10, 1 << 20)]
        await lane.close()
        assert due == ["sooner", "between", "later"]
        assert anyio.current_time() == pytest.approx(60, abs=0.1)
        tasks.cancel_scope.cancel()
