"""The store that keeps events in memory, for as long as the process lives."""

from __future__ import annotations

import enum
import heapq
import secrets
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping

import anyio.lowlevel

from ensync.scopes import background_tasks
from ensync.server.retention import Retention
from ensync.server.schedule import Schedule
from ensync.server.store import (
    EventState,
    Found,
    Lane,
    Lease,
    NewEvent,
    QueueCounts,
    QueueKey,
    Settled,
    Store,
    StoredEvent,
    StoreFullError,
)
from ensync.server.waiters import Waiters

__all__ = ["MemoryStore"]

_MIB = 1 << 20
_DEFAULT_RETENTION = Retention()
_REMEMBERED_ATTEMPTS = 100_000
_COUNTED_AT_ONCE = 10_000


class _Place(enum.Enum):
    READY = "ready"
    LEASED = "leased"
    DEFERRED = "deferred"
    SETTLED = "settled"


class _Record:
    """An event and where it is."""

    __slots__ = ("attempts", "lease_number", "place", "queued", "state", "stored")

    def __init__(self, stored: StoredEvent) -> None:
        self.stored = stored
        self.place = _Place.READY
        self.state = EventState.OPEN
        self.attempts = 0
        self.lease_number = 0
        self.queued = False  # whether its queue's heap has an entry for it

    def lease(self) -> Lease:
        self.place = _Place.LEASED
        self.lease_number += 1
        return Lease(self.stored, self.attempts, self.lease_number)


class _Queue:
    """The events of a queue that are there for the taking, and who waits for them."""

    def __init__(self) -> None:
        # Entries of events that were claimed meanwhile are skipped when they come up.
        self._ready: list[tuple[int, _Record]] = []
        self.waiters = Waiters()
        self.open_events = 0
        self.lanes = 0

    @property
    def unused(self) -> bool:
        return not self.open_events and not self.lanes

    def put(self, record: _Record) -> None:
        record.place = _Place.READY
        if not record.queued:
            record.queued = True
            heapq.heappush(self._ready, (record.stored.block, record))
        self.waiters.wake_one()

    def take(self, max_events: int, max_bytes: int) -> list[Lease]:
        leases: list[Lease] = []
        while len(leases) < max_events and (record := self._first()) is not None:
            max_bytes -= record.stored.event.size
            if max_bytes < 0 and leases:
                break
            heapq.heappop(self._ready)
            record.queued = False
            record.attempts += 1
            leases.append(record.lease())
        if leases and self._first() is not None:
            self.waiters.wake_one()
        return leases

    def _first(self) -> _Record | None:
        while self._ready:
            record = self._ready[0][1]
            if record.place is _Place.READY:
                return record
            heapq.heappop(self._ready)
            record.queued = False
        return None


class _MemoryLane(Lane):
    def __init__(
        self, queue: _Queue, before_take: Callable[[], None], on_close: Callable[[], None]
    ) -> None:
        self._queue = queue
        self._before_take = before_take
        self._on_close = on_close
        self._closed = False

    async def take(self, max_events: int, max_bytes: int) -> list[Lease]:
        while True:
            self._before_take()
            # Nothing is awaited between taking and returning: a cancel can't come between.
            leases = self._queue.take(max_events, max_bytes)
            if leases:
                return leases
            await self._queue.waiters.wait()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_close()


class MemoryStore(Store):
    """Keeps events in memory.

    Args:
        retention: Which settled events are kept for replay.
        max_bytes: How much all events together may take. Settled ones make room
            first; when that is not enough, append() refuses.
        new_idem: Makes the id of an event.
        now_ms: Milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        retention: Retention = _DEFAULT_RETENTION,
        max_bytes: int = 512 * _MIB,
        new_idem: Callable[[], str] = lambda: secrets.token_hex(16),
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._retention = retention
        self._max_bytes = max_bytes
        self._new_idem = new_idem
        self._now_ms = now_ms
        self._bytes = 0
        self._next_block = 0
        self._records: dict[str, _Record] = {}
        # When each was settled, the first to be forgotten first.
        self._settled: OrderedDict[str, int] = OrderedDict()
        self._settled_bytes = 0
        self._deduped: OrderedDict[str, str] = OrderedDict()
        self._queues: dict[QueueKey, _Queue] = {}
        self._deferred = Schedule()
        self._expiring = Schedule()

    async def append(self, event: NewEvent, dedupe: str | None = None) -> StoredEvent:
        """Stores an event."""
        known = self._known(dedupe)
        if known is not None:
            return known.stored
        self._reserve(_cost(event))
        stored = StoredEvent(self._new_idem(), self._next_block, self._now_ms(), event)
        self._next_block += 1
        record = self._records[stored.idem] = _Record(stored)
        if dedupe is not None:
            self._remember_attempt(dedupe, stored.idem)
        if event.ttl_ms is not None:
            self._expiring.put(stored.idem, stored.logged_at_ms + event.ttl_ms)
        queue = self._queue(event.queue)
        queue.open_events += 1
        queue.put(record)
        return stored

    async def lane(self, queue: QueueKey) -> Lane:
        """Opens a share in a queue."""
        shared = self._queue(queue)
        shared.lanes += 1

        def closed() -> None:
            shared.lanes -= 1
            self._drop_if_unused(queue)

        return _MemoryLane(shared, self._drop_expired, closed)

    async def ack(self, lease: Lease) -> Settled:
        """Settles an event as done."""
        return self._settle(lease, EventState.ACKNOWLEDGED)

    async def discard(self, lease: Lease, reason: str) -> Settled:
        """Settles an event as unwanted. The reason is not kept."""
        return self._settle(lease, EventState.DISCARDED)

    async def defer(self, lease: Lease, delay_ms: int) -> int | None:
        """Makes an event available again after a delay."""
        record = self._leased(lease)
        if record is None:
            return None
        due_ms = self._now_ms() + delay_ms
        if delay_ms == 0:
            self._make_ready(record)
        else:
            record.place = _Place.DEFERRED
            self._deferred.put(record.stored.idem, due_ms)
        return due_ms

    async def release(self, leases: Iterable[Lease]) -> None:
        """Makes events available again at once."""
        for lease in leases:
            record = self._leased(lease)
            if record is not None:
                self._make_ready(record)

    async def claim(self, idem: str) -> Lease | None:
        """Leases an event that waits or is deferred."""
        self._drop_expired()
        record = self._records.get(idem)
        if record is None or record.place not in (_Place.READY, _Place.DEFERRED):
            return None
        self._deferred.drop(idem)
        return record.lease()

    async def find(self, idem: str) -> Found | None:
        """Looks up an event."""
        self._drop_expired()
        self._forget_what_is_too_much()
        record = self._records.get(idem)
        return None if record is None else Found(record.stored, record.state)

    async def browse(self, queue: QueueKey) -> list[Found]:
        """Everything that is kept of a queue."""
        # Ids are kept in the order of their blocks, as a dict keeps the order of insertion.
        return [
            Found(record.stored, record.state)
            for record in self._records.values()
            if record.stored.event.queue == queue
        ]

    async def count_queues(self) -> list[QueueCounts]:
        """What is where, by queue."""
        counts: defaultdict[QueueKey, Counter[_Place | EventState]] = defaultdict(Counter)
        for number, record in enumerate(list(self._records.values()), start=1):
            where = record.state if record.place is _Place.SETTLED else record.place
            counts[record.stored.event.queue][where] += 1
            if number % _COUNTED_AT_ONCE == 0:  # others have to wait meanwhile
                await anyio.lowlevel.checkpoint()
        return [_queue_counts(key, counts[key]) for key in sorted(counts)]

    async def run(self) -> None:
        """Brings deferred events back when they are due, and drops what has expired."""
        async with background_tasks() as tasks:
            tasks.start_soon(self._expiring.run, self._now_ms, self._drop_expired)
            await self._deferred.run(self._now_ms, self.bring_back_due)

    def bring_back_due(self) -> None:
        """Makes deferred events available whose time has come. run() does this by itself."""
        self._drop_expired()
        for idem in self._deferred.take_due(self._now_ms()):
            self._make_ready(self._records[idem])

    def _drop_expired(self) -> None:
        for idem in self._expiring.take_due(self._now_ms()):
            record = self._records[idem]
            # What is in hand is left to whoever has it, until it is given back.
            if record.place is not _Place.LEASED:
                self._expire(record)

    def _expire(self, record: _Record) -> None:
        self._deferred.drop(record.stored.idem)
        self._close(record, EventState.EXPIRED)
        self.expired += 1

    def _queue(self, key: QueueKey) -> _Queue:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue()
        return queue

    def _drop_if_unused(self, key: QueueKey) -> None:
        queue = self._queues.get(key)
        if queue is not None and queue.unused:
            del self._queues[key]

    def _leased(self, lease: Lease) -> _Record | None:
        record = self._records.get(lease.stored.idem)
        if record is None or record.place is not _Place.LEASED:
            return None
        return record if record.lease_number == lease.token else None

    def _make_ready(self, record: _Record) -> None:
        if record.stored.has_expired(self._now_ms()):
            self._expire(record)
            return
        self._queue(record.stored.event.queue).put(record)

    def _settle(self, lease: Lease, state: EventState) -> Settled:
        record = self._leased(lease)
        if record is None:
            return self._why_not(lease)
        self._close(record, state)
        return Settled.DONE

    def _close(self, record: _Record, state: EventState) -> None:
        self._expiring.drop(record.stored.idem)
        record.place = _Place.SETTLED
        record.state = state
        if not record.stored.event.persist:
            self._empty(record)
        key = record.stored.event.queue
        self._queue(key).open_events -= 1
        self._drop_if_unused(key)
        self._settled[record.stored.idem] = self._now_ms()
        self._settled_bytes += _cost(record.stored.event)
        self._forget_what_is_too_much()

    def _why_not(self, lease: Lease) -> Settled:
        record = self._records.get(lease.stored.idem)
        settled = record is None or record.place is _Place.SETTLED
        return Settled.ALREADY if settled else Settled.STALE

    def _empty(self, record: _Record) -> None:
        event = record.stored.event
        emptied = event._replace(payload="", metadata="{}", payload_metadata=None)
        record.stored = record.stored._replace(event=emptied)
        self._bytes += _cost(emptied) - _cost(event)

    def _reserve(self, size: int) -> None:
        while self._bytes + size > self._max_bytes and self._settled:
            self._forget_oldest()
        if self._bytes + size > self._max_bytes:
            raise StoreFullError(
                f"the engine's memory is full: {self._max_bytes} bytes of events wait to be settled"
            )
        self._bytes += size

    def _forget_what_is_too_much(self) -> None:
        while self._settled and self._keeps_too_much():
            self._forget_oldest()

    def _keeps_too_much(self) -> bool:
        if self._retention.is_exceeded(len(self._settled), self._settled_bytes):
            return True
        settled_at_ms = next(iter(self._settled.values()))
        return self._retention.is_over(settled_at_ms, self._now_ms())

    def _forget_oldest(self) -> None:
        idem, _ = self._settled.popitem(last=False)
        size = _cost(self._records.pop(idem).stored.event)
        self._settled_bytes -= size
        self._bytes -= size

    def _known(self, dedupe: str | None) -> _Record | None:
        idem = None if dedupe is None else self._deduped.get(dedupe)
        return None if idem is None else self._records.get(idem)

    def _remember_attempt(self, dedupe: str, idem: str) -> None:
        self._deduped[dedupe] = idem
        if len(self._deduped) > _REMEMBERED_ATTEMPTS:
            self._deduped.popitem(last=False)


def _queue_counts(queue: QueueKey, counts: Mapping[_Place | EventState, int]) -> QueueCounts:
    return QueueCounts(
        queue,
        waiting=counts[_Place.READY],
        leased=counts[_Place.LEASED],
        deferred=counts[_Place.DEFERRED],
        acknowledged=counts[EventState.ACKNOWLEDGED],
        discarded=counts[EventState.DISCARDED],
        expired=counts[EventState.EXPIRED],
    )


def _cost(event: NewEvent) -> int:
    """About how many bytes of memory a kept event takes, the objects around it included."""
    return event.size + 1024
