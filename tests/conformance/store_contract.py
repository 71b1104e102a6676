"""What every store of the engine must do. A store's test module subclasses StoreContract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ensync.server.store import (
    EventState,
    Lane,
    Lease,
    NewEvent,
    QueueCounts,
    QueueKey,
    Settled,
    Store,
    StoredEvent,
)

BILLING = QueueKey("app-b", "orders/paid")
OTHER_NAME = QueueKey("app-b", "orders/lost")
OTHER_APP = QueueKey("app-c", "orders/paid")

LOTS = 1 << 30

# Enough turns of the loop for whatever a store does behind an await that is not a thread.
TURNS = 10


class StoreHarness(ABC):
    """A store under test, and what its tests need to do around it."""

    store: Store

    @abstractmethod
    async def advance(self, milliseconds: int) -> None:
        """Lets time pass for the store; what is due then has happened on return."""

    async def reopen(self) -> None:
        """Closes the store and opens it again, as after a restart of the process.

        A store that keeps nothing skips the test.
        """
        pytest.skip("this store keeps nothing beyond the process")

    async def append(self, text: str = "e", queue: QueueKey = BILLING) -> StoredEvent:
        return await self.store.append(new_event(text, queue))

    async def append_many(self, count: int, queue: QueueKey = BILLING) -> list[StoredEvent]:
        return [await self.append(f"e{number}", queue) for number in range(count)]

    async def take(self, max_events: int = 1000, queue: QueueKey = BILLING) -> list[Lease]:
        """What can be taken at once; fails when there is nothing."""
        lane = await self.store.lane(queue)
        try:
            with anyio.fail_after(5):
                return await lane.take(max_events, LOTS)
        finally:
            await lane.close()

    async def is_empty(self, queue: QueueKey = BILLING) -> bool:
        """Whether nothing can be taken. Takes nothing."""
        lane = await self.store.lane(queue)
        taken: list[Lease] = []

        async def take() -> None:
            taken.extend(await lane.take(1, LOTS))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await self.settle_down()
            tasks.cancel_scope.cancel()
        await lane.close()
        await self.store.release(taken)
        return not taken

    async def settle_down(self) -> None:
        """Lets all tasks run until they wait."""
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()


def new_event(text: str = "e", queue: QueueKey = BILLING, **changes: Any) -> NewEvent:
    event = NewEvent(queue, "app-a", text, '{"source": "web"}', '{"byte_size": 2}')
    return event._replace(**changes)


def payloads(leases: list[Lease]) -> list[str]:
    return [lease.stored.event.payload for lease in leases]


async def take_all(lane: Lane, count: int, at_most: int = 1000) -> list[Lease]:
    leases: list[Lease] = []
    with anyio.fail_after(5):
        while len(leases) < count:
            leases += await lane.take(at_most, LOTS)
    return leases


class StoreContract:
    """Tests of a ``harness`` fixture, which the subclass's module provides."""

    # Storing

    async def test_an_event_is_taken_as_it_was_stored(self, harness: StoreHarness) -> None:
        event = new_event("päyload")
        stored = await harness.store.append(event)
        [lease] = await harness.take()
        assert lease.stored == stored
        assert lease.stored.event == event
        assert lease.attempt == 1

    async def test_each_event_has_its_own_id_and_a_higher_block(
        self, harness: StoreHarness
    ) -> None:
        stored = await harness.append_many(20)
        assert len({event.idem for event in stored}) == 20
        blocks = [event.block for event in stored]
        assert blocks == sorted(set(blocks))

    async def test_the_same_attempt_stores_once(self, harness: StoreHarness) -> None:
        first = await harness.store.append(new_event("e"), "attempt 1")
        again = await harness.store.append(new_event("e"), "attempt 1")
        other = await harness.store.append(new_event("e"), "attempt 2")
        assert again == first
        assert other.idem != first.idem
        assert len(await harness.take()) == 2

    async def test_concurrent_appends_are_all_kept(self, harness: StoreHarness) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(harness.append, f"e{number}")
        lane = await harness.store.lane(BILLING)
        leases = await take_all(lane, 30)
        await lane.close()
        assert sorted(payloads(leases)) == sorted(f"e{number}" for number in range(30))

    # Taking

    async def test_events_are_taken_in_the_order_of_publishing(self, harness: StoreHarness) -> None:
        await harness.append_many(10)
        lane = await harness.store.lane(BILLING)
        leases = await take_all(lane, 10, at_most=3)
        await lane.close()
        assert payloads(leases) == [f"e{number}" for number in range(10)]

    async def test_no_more_events_than_asked_for(self, harness: StoreHarness) -> None:
        await harness.append_many(10)
        assert len(await harness.take(4)) == 4
        assert len(await harness.take(100)) == 6

    async def test_no_more_bytes_than_asked_for(self, harness: StoreHarness) -> None:
        size = new_event("x" * 1000).size
        for _ in range(4):
            await harness.append("x" * 1000)
        lane = await harness.store.lane(BILLING)
        assert len(await lane.take(100, 2 * size)) == 2
        assert len(await lane.take(100, 1)) == 1  # the first of all always fits
        await lane.close()

    async def test_a_taken_event_is_not_taken_twice(self, harness: StoreHarness) -> None:
        await harness.append()
        await harness.take()
        assert await harness.is_empty()

    async def test_take_waits_for_an_event(self, harness: StoreHarness) -> None:
        lane = await harness.store.lane(BILLING)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.append, "late")
            assert payloads(await take_all(lane, 1)) == ["late"]
        await lane.close()

    async def test_queues_are_apart(self, harness: StoreHarness) -> None:
        for queue in (BILLING, OTHER_NAME, OTHER_APP):
            await harness.append(str(queue), queue)
        for queue in (BILLING, OTHER_NAME, OTHER_APP):
            assert payloads(await harness.take(queue=queue)) == [str(queue)]

    async def test_lanes_compete(self, harness: StoreHarness) -> None:
        lanes = [await harness.store.lane(BILLING) for _ in range(3)]
        taken: list[Lease] = []
        shares: list[int] = []

        async def consume(lane: Lane) -> None:
            share = 0
            while len(taken) < 30:
                leases = await lane.take(1, LOTS)
                share += len(leases)
                shares.append(share)
                taken.extend(leases)
            tasks.cancel_scope.cancel()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for lane in lanes:
                    tasks.start_soon(consume, lane)
                await harness.settle_down()
                for number in range(30):
                    await harness.append(f"e{number}")
                    await harness.settle_down()
        for lane in lanes:
            await lane.close()
        assert sorted(payloads(taken)) == sorted(f"e{number}" for number in range(30))
        assert max(shares) < 30, "one lane got everything"

    async def test_cancelling_take_loses_nothing(self, harness: StoreHarness) -> None:
        lane = await harness.store.lane(BILLING)
        got: list[Lease] = []

        async def take() -> None:
            got.extend(await lane.take(10, LOTS))

        for number in range(TURNS):
            await harness.append(f"e{number}")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                for _ in range(number):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        await lane.close()
        leases = got if len(got) == TURNS else got + await self._rest(harness, TURNS - len(got))
        assert sorted(payloads(leases)) == sorted(f"e{number}" for number in range(TURNS))

    async def _rest(self, harness: StoreHarness, count: int) -> list[Lease]:
        lane = await harness.store.lane(BILLING)
        try:
            return await take_all(lane, count)
        finally:
            await lane.close()

    async def test_a_cancelled_taker_does_not_keep_the_wake_up(self, harness: StoreHarness) -> None:
        first, second = await harness.store.lane(BILLING), await harness.store.lane(BILLING)
        got: list[Lease] = []

        async def take_second() -> None:
            got.extend(await second.take(1, LOTS))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                async with anyio.create_task_group() as doomed:
                    doomed.start_soon(first.take, 1, LOTS)
                    await harness.settle_down()
                    tasks.start_soon(take_second)
                    await harness.settle_down()
                    await harness.append()
                    doomed.cancel_scope.cancel()
                if not got:
                    # The first may have won; then it is lent out, and is not lost.
                    tasks.start_soon(self._append_until, harness, got)
        await first.close()
        await second.close()
        assert got

    async def _append_until(self, harness: StoreHarness, got: list[Lease]) -> None:
        await harness.settle_down()
        assert got or await harness.is_empty()
        if not got:
            await harness.append()

    async def test_closing_a_lane_leaves_its_leases_valid(self, harness: StoreHarness) -> None:
        await harness.append()
        lane = await harness.store.lane(BILLING)
        [lease] = await lane.take(1, LOTS)
        await lane.close()
        await lane.close()
        assert await harness.store.ack(lease) is Settled.DONE

    # Settling

    @pytest.mark.parametrize("state", [EventState.ACKNOWLEDGED, EventState.DISCARDED])
    async def test_a_settled_event_does_not_come_again(
        self, harness: StoreHarness, state: EventState
    ) -> None:
        stored = await harness.append()
        [lease] = await harness.take()
        assert await settle(harness.store, lease, state) is Settled.DONE
        assert await harness.is_empty()
        found = await harness.store.find(stored.idem)
        assert found is not None
        assert found.stored == stored
        assert found.state in (state, EventState.UNKNOWN)

    @pytest.mark.parametrize("first", [EventState.ACKNOWLEDGED, EventState.DISCARDED])
    @pytest.mark.parametrize("second", [EventState.ACKNOWLEDGED, EventState.DISCARDED])
    async def test_settling_twice_is_told(
        self, harness: StoreHarness, first: EventState, second: EventState
    ) -> None:
        await harness.append()
        [lease] = await harness.take()
        await settle(harness.store, lease, first)
        assert await settle(harness.store, lease, second) is Settled.ALREADY
        assert await harness.store.defer(lease, 1000) is None
        await harness.store.release([lease])
        assert await harness.is_empty()

    async def test_a_lease_ends_with_its_release(self, harness: StoreHarness) -> None:
        await harness.append()
        [old] = await harness.take()
        await harness.store.release([old])
        assert await harness.store.ack(old) is Settled.STALE
        [new] = await harness.take()
        assert await harness.store.ack(old) is Settled.STALE
        assert await harness.store.defer(old, 0) is None
        await harness.store.release([old])
        assert await harness.is_empty(), "an old lease gave back what another holds"
        assert await harness.store.ack(new) is Settled.DONE

    async def test_open_events_are_found_open(self, harness: StoreHarness) -> None:
        stored = await harness.append()
        await self._assert_open(harness, stored)
        [lease] = await harness.take()
        await self._assert_open(harness, stored)
        await harness.store.defer(lease, 5000)
        await self._assert_open(harness, stored)

    async def _assert_open(self, harness: StoreHarness, stored: StoredEvent) -> None:
        found = await harness.store.find(stored.idem)
        assert found is not None
        assert found.stored == stored
        assert found.state in (EventState.OPEN, EventState.UNKNOWN)

    async def test_an_unknown_event_is_not_found(self, harness: StoreHarness) -> None:
        assert await harness.store.find("no such event") is None
        assert await harness.store.claim("no such event") is None

    async def test_what_is_not_to_persist_is_forgotten_once_settled(
        self, harness: StoreHarness
    ) -> None:
        stored = await harness.store.append(new_event("secret", persist=False))
        [lease] = await harness.take()
        assert lease.stored.event.payload == "secret"
        await harness.store.ack(lease)
        found = await harness.store.find(stored.idem)
        assert found is not None, "a repeated acknowledgement must still be recognised"
        assert found.stored.event.payload == ""
        assert found.stored.event.queue == BILLING
        assert not found.stored.event.persist
        assert await harness.store.ack(lease) is Settled.ALREADY

    # Giving back

    async def test_released_events_come_back_in_block_order(self, harness: StoreHarness) -> None:
        await harness.append_many(6)
        leases = await harness.take(5)
        await harness.store.release([leases[3], leases[0], leases[4]])
        again = await harness.take()
        assert payloads(again) == ["e0", "e3", "e4", "e5"]
        assert [lease.attempt for lease in again] == [2, 2, 2, 1]

    async def test_a_release_wakes_a_waiting_lane(self, harness: StoreHarness) -> None:
        await harness.append()
        leases = await harness.take()
        lane = await harness.store.lane(BILLING)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.store.release, leases)
            [again] = await take_all(lane, 1)
            assert again.stored == leases[0].stored
        await lane.close()

    async def test_releasing_nothing(self, harness: StoreHarness) -> None:
        await harness.store.release([])
        await harness.store.keep([])

    async def test_keeping_a_lease(self, harness: StoreHarness) -> None:
        await harness.append()
        [lease] = await harness.take()
        await harness.store.keep([lease])
        assert await harness.is_empty()
        assert await harness.store.ack(lease) is Settled.DONE

    # Deferring

    async def test_a_deferred_event_comes_back_when_it_is_due(self, harness: StoreHarness) -> None:
        stored = await harness.append()
        [lease] = await harness.take()
        due_ms = await harness.store.defer(lease, 60_000)
        assert due_ms is not None
        assert due_ms >= stored.logged_at_ms + 60_000
        await harness.advance(59_000)
        assert await harness.is_empty()
        await harness.advance(2_000)
        [again] = await harness.take()
        assert again.stored == stored
        assert again.attempt == 2

    async def test_deferring_by_nothing_gives_back_at_once(self, harness: StoreHarness) -> None:
        await harness.append_many(2)
        [first, _] = await harness.take()
        assert await harness.store.defer(first, 0) is not None
        assert payloads(await harness.take()) == ["e0"]

    async def test_a_due_event_wakes_a_waiting_lane(self, harness: StoreHarness) -> None:
        await harness.append()
        [lease] = await harness.take()
        await harness.store.defer(lease, 1_000)
        lane = await harness.store.lane(BILLING)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.advance, 1_500)
            assert payloads(await take_all(lane, 1)) == ["e"]
        await lane.close()

    async def test_others_overtake_a_deferred_event(self, harness: StoreHarness) -> None:
        await harness.append_many(3)
        leases = await harness.take(1)
        await harness.store.defer(leases[0], 1_000)
        assert payloads(await harness.take(1)) == ["e1"]
        await harness.advance(1_500)
        assert payloads(await harness.take()) == ["e0", "e2"]

    async def test_a_lease_ends_with_a_deferral(self, harness: StoreHarness) -> None:
        await harness.append()
        [lease] = await harness.take()
        await harness.store.defer(lease, 1_000)
        assert await harness.store.ack(lease) is Settled.STALE
        await harness.store.release([lease])
        assert await harness.is_empty()

    # Claiming

    @pytest.mark.parametrize("state", [EventState.ACKNOWLEDGED, EventState.DISCARDED])
    async def test_a_waiting_event_can_be_claimed_and_settled(
        self, harness: StoreHarness, state: EventState
    ) -> None:
        stored = await harness.append_many(3)
        lease = await harness.store.claim(stored[1].idem)
        assert lease is not None
        assert lease.stored == stored[1]
        assert await settle(harness.store, lease, state) is Settled.DONE
        assert payloads(await harness.take()) == ["e0", "e2"]

    async def test_a_deferred_event_can_be_claimed(self, harness: StoreHarness) -> None:
        stored = await harness.append()
        [lease] = await harness.take()
        await harness.store.defer(lease, 1_000)
        claimed = await harness.store.claim(stored.idem)
        assert claimed is not None
        assert await harness.store.ack(claimed) is Settled.DONE
        await harness.advance(2_000)
        assert await harness.is_empty()

    async def test_a_claim_is_not_an_attempt(self, harness: StoreHarness) -> None:
        stored = await harness.append()
        claimed = await harness.store.claim(stored.idem)
        assert claimed is not None
        assert await harness.is_empty()
        await harness.store.release([claimed])
        [lease] = await harness.take()
        assert lease.attempt == 1

    async def test_what_is_lent_out_or_settled_can_not_be_claimed(
        self, harness: StoreHarness
    ) -> None:
        stored = await harness.append()
        [lease] = await harness.take()
        assert await harness.store.claim(stored.idem) is None
        await harness.store.ack(lease)
        assert await harness.store.claim(stored.idem) is None

    async def test_of_two_who_claim_and_settle_one_succeeds(self, harness: StoreHarness) -> None:
        for head_start in range(30):
            stored = await harness.append()
            settled: list[Settled] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(claim_and_settle, harness.store, stored, settled)
                for _ in range(head_start):
                    await anyio.lowlevel.checkpoint()
                tasks.start_soon(claim_and_settle, harness.store, stored, settled)
            assert settled == [Settled.DONE]
        assert await harness.is_empty()

    async def test_who_is_cancelled_while_claiming_has_claimed_nothing(
        self, harness: StoreHarness
    ) -> None:
        for head_start in range(30):
            stored = await harness.append()
            leases: list[Lease] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(claim, harness.store, stored, leases)
                for _ in range(head_start):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            await harness.settle_down()
            if not leases:
                await claim(harness.store, stored, leases)
            assert await harness.store.ack(leases[0]) is Settled.DONE

    async def test_a_claimed_event_may_be_deferred_again_and_again(
        self, harness: StoreHarness
    ) -> None:
        stored = await harness.append()
        for delay_ms in (0, 5_000, 0, 1_000, 3_000):
            claimed = await harness.store.claim(stored.idem)
            assert claimed is not None
            assert await harness.store.defer(claimed, delay_ms) is not None
        assert await harness.is_empty()
        await harness.advance(3_500)
        assert len(await harness.take()) == 1
        assert await harness.is_empty()

    # Time to live

    async def test_an_expired_event_is_not_handed_out(self, harness: StoreHarness) -> None:
        stored = await harness.store.append(new_event("short", ttl_ms=5_000))
        await harness.append("long")
        await harness.advance(6_000)
        assert payloads(await harness.take()) == ["long"]
        found = await harness.store.find(stored.idem)
        assert found is not None
        assert found.state is EventState.EXPIRED
        assert found.stored == stored
        assert await harness.store.claim(stored.idem) is None
        assert harness.store.expired == 1

    async def test_an_event_is_handed_out_within_its_time_to_live(
        self, harness: StoreHarness
    ) -> None:
        await harness.store.append(new_event("short", ttl_ms=5_000))
        await harness.advance(4_000)
        [lease] = await harness.take()
        await harness.advance(4_000)
        assert await harness.store.ack(lease) is Settled.DONE
        await harness.advance(1_000)
        assert harness.store.expired == 0

    async def test_an_event_that_expires_in_hand_is_not_handed_out_again(
        self, harness: StoreHarness
    ) -> None:
        await harness.store.append(new_event("short", ttl_ms=5_000))
        leases = await harness.take()
        await harness.advance(6_000)
        assert harness.store.expired == 0
        await harness.store.release(leases)
        assert await harness.is_empty()
        await harness.advance(1_000)
        assert harness.store.expired == 1

    async def test_an_event_expires_while_it_is_deferred(self, harness: StoreHarness) -> None:
        await harness.store.append(new_event("short", ttl_ms=5_000))
        [lease] = await harness.take()
        await harness.store.defer(lease, 60_000)
        await harness.advance(6_000)
        assert harness.store.expired == 1
        await harness.advance(60_000)
        assert await harness.is_empty()

    # Looking

    async def test_queues_are_counted(self, harness: StoreHarness) -> None:
        await harness.store.append(new_event("short", ttl_ms=1_000))
        await harness.advance(1_000)
        await harness.append_many(9)
        await harness.append("other", OTHER_APP)
        leases = await harness.take(5)
        await harness.store.ack(leases[0])
        await harness.store.discard(leases[1], "unwanted")
        await harness.store.defer(leases[2], 5_000)
        counts = await harness.store.count_queues()
        assert counts in (
            [],  # it can't tell
            [
                QueueCounts(BILLING, 4, 2, deferred=1, acknowledged=1, discarded=1, expired=1),
                QueueCounts(OTHER_APP, waiting=1),
            ],
        )

    async def test_browsing_shows_everything_of_a_queue(self, harness: StoreHarness) -> None:
        stored = await harness.append_many(4)
        await harness.append("other", OTHER_APP)
        leases = await harness.take(2)
        await harness.store.ack(leases[0])
        found = await harness.store.browse(BILLING)
        assert [each.stored for each in found] == stored
        assert found[0].state in (EventState.ACKNOWLEDGED, EventState.UNKNOWN)
        assert await harness.store.browse(OTHER_NAME) == []

    # Restarting

    async def test_everything_survives_a_restart(self, harness: StoreHarness) -> None:
        stored = await harness.append_many(4)
        leases = await harness.take(3)
        await harness.store.ack(leases[0])
        due_ms = await harness.store.defer(leases[1], 60_000)
        assert due_ms is not None
        await harness.reopen()
        found = await harness.store.browse(BILLING)
        assert [each.stored for each in found] == stored
        # What was lent out is not settled, so it waits again.
        assert payloads(await harness.take()) == ["e2", "e3"]
        await harness.advance(61_000)
        assert payloads(await harness.take()) == ["e1"]

    async def test_blocks_and_attempts_go_on_after_a_restart(self, harness: StoreHarness) -> None:
        before = await harness.append("before")
        await harness.take()
        await harness.reopen()
        after = await harness.append("after")
        assert after.block > before.block
        again = await harness.take()
        assert payloads(again) == ["before", "after"]
        assert [lease.attempt for lease in again] == [2, 1]


async def claim(store: Store, stored: StoredEvent, leases: list[Lease]) -> None:
    lease = await store.claim(stored.idem)
    if lease is not None:
        leases.append(lease)


async def claim_and_settle(store: Store, stored: StoredEvent, settled: list[Settled]) -> None:
    lease = await store.claim(stored.idem)
    if lease is not None:
        settled.append(await store.ack(lease))


async def settle(store: Store, lease: Lease, state: EventState) -> Settled:
    if state is EventState.ACKNOWLEDGED:
        return await store.ack(lease)
    return await store.discard(lease, "unwanted")
