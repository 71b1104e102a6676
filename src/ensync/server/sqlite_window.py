"""The part of a queue that is in memory: its first events, and who waits for them."""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Iterator

from ensync.server.sqlite_tables import OpenEvent
from ensync.server.store import Lease, QueueKey, StoredEvent
from ensync.server.waiters import Waiters

__all__ = ["Place", "Record", "Window"]

# A window that holds fewer events than this is filled from the file.
_LOW = 64
# One that holds as much as this takes no new events: they are read when it is their turn.
_FULL_EVENTS = 1024
_FULL_BYTES = 16 << 20

# A heap with fewer stale entries than this is not worth rebuilding.
_STALE_ENTRIES = 64


class Place(enum.Enum):
    """Where an event is that is in memory."""

    READY = "ready"
    LEASED = "leased"
    SETTLING = "settling"  # what becomes of it is being written


class Record:
    """An event that is in memory: in a window, or lent out."""

    __slots__ = ("attempts", "due_ms", "lease_number", "place", "stored", "unwanted")

    def __init__(self, event: OpenEvent) -> None:
        self.stored: StoredEvent = event.stored
        self.attempts = event.attempts
        self.due_ms = event.due_ms
        self.place = Place.READY
        self.lease_number = 0
        self.unwanted = False  # whether it was given back while it was being settled

    @property
    def idem(self) -> str:
        """The event's id."""
        return self.stored.idem

    @property
    def block(self) -> int:
        """The event's place in the order of publishing."""
        return self.stored.block


class Window:
    """The first events of a queue, as long as somebody takes from it.

    In memory are the events up to the block ``read_up_to``: those that are ready are in
    the window, others are lent out or deferred. What has a higher block is in the file,
    and is read when the window runs low, unless ``is_complete`` says that there is none.

    Args:
        queue: Whose events.
    """

    def __init__(self, queue: QueueKey) -> None:
        self.queue = queue
        self.lanes = 0
        self.waiters = Waiters()
        self.is_complete = False
        self.is_reading = False
        self.read_up_to = -1
        self.version = 0  # changes when what is being read is not what is wanted any more
        self._failure: Exception | None = None
        self._ready: dict[int, Record] = {}
        # May hold blocks that are not ready any more; they are skipped when they come up.
        self._order: list[int] = []
        self._bytes = 0

    def __iter__(self) -> Iterator[Record]:
        return iter(self._ready.values())

    @property
    def wants_to_read(self) -> bool:
        """Whether it is time to read on in the file."""
        if self.is_complete or self.is_reading:
            return False
        return len(self._ready) < _LOW or self.first() is None

    @property
    def is_full(self) -> bool:
        """Whether it would be unwise to hold more."""
        return len(self._ready) >= _FULL_EVENTS or self._bytes >= _FULL_BYTES

    def clear(self) -> None:
        """Leaves all that waits to the file: nobody takes from this queue any more."""
        self._ready.clear()
        self._order.clear()
        self._bytes = 0

    def put(self, record: Record) -> None:
        """Makes an event ready that was read, or was given back."""
        record.place = Place.READY
        self._ready[record.block] = record
        self._bytes += record.stored.event.size
        heapq.heappush(self._order, record.block)
        if len(self._order) > 2 * len(self._ready) + _STALE_ENTRIES:
            self._order = sorted(self._ready)

    def remove(self, record: Record) -> None:
        """Takes an event out of turn."""
        if self._ready.pop(record.block, None) is not None:
            self._bytes -= record.stored.event.size

    def holds(self, block: int) -> bool:
        """Whether it is this window's to know of an event."""
        return block <= self.read_up_to

    def read_again_from(self, block: int) -> None:
        """An event that was not in memory has become ready."""
        self.version += 1
        if block <= self.read_up_to:
            self.read_up_to = block - 1
        self.is_complete = False

    def not_read(self, error: Exception) -> None:
        """Reading on has failed; the next that waits is told."""
        self.is_reading = False
        self._failure = error
        self.waiters.wake_one()

    def forget_failure(self) -> None:
        """It can be read again."""
        self._failure = None

    def raise_failure(self) -> None:
        """Raises why reading on has failed, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def take(
        self, max_events: int, max_bytes: int, lend: Callable[[Record], Lease | None]
    ) -> list[Lease]:
        """Takes what is ready, in block order.

        Args:
            max_events: How many at most.
            max_bytes: How much at most, but for the first.
            lend: Makes the lease, or none when the event is not to be handed out.
        """
        leases: list[Lease] = []
        while len(leases) < max_events and (record := self.first()) is not None:
            size = record.stored.event.size
            if size > max_bytes and leases:
                break
            self.remove(record)
            lease = lend(record)
            if lease is not None:
                max_bytes -= size
                leases.append(lease)
        return leases

    def first(self) -> Record | None:
        """The event whose turn it is. None: there is none, or it has to be read first."""
        while self._order:
            record = self._ready.get(self._order[0])
            if record is not None:
                return record if self.holds(record.block) else None
            heapq.heappop(self._order)
        return None
