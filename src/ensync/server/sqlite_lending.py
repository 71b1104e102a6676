"""Which events of a data file are in memory, and which of them are lent out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count

from ensync.server.sqlite_tables import DueEvent, Inserted, OpenEvent, Page
from ensync.server.sqlite_window import Place, Record, Window
from ensync.server.store import Lease, QueueKey

__all__ = ["Lending"]


class Lending:
    """The windows of all queues that somebody takes from, and what was taken.

    Decides only; reading and writing the file is up to the store.

    Args:
        expire: Told of events that are not handed out, as their time to live is over.

    Attributes:
        attempts: How often events were taken, by block, as far as the file does not know.
    """

    def __init__(self, expire: Callable[[Record], object]) -> None:
        self.attempts: dict[int, int] = {}
        self._expire = expire
        self._windows: dict[QueueKey, Window] = {}
        self._records: dict[str, Record] = {}
        self._lease_numbers = count(1)

    def __len__(self) -> int:
        return len(self._records)

    # Windows

    def open_window(self, queue: QueueKey) -> Window:
        """One more lane takes from a queue."""
        window = self._windows.get(queue)
        if window is None:
            window = self._windows[queue] = Window(queue)
        window.lanes += 1
        return window

    def close_window(self, window: Window) -> None:
        """One lane less. Without any, nothing that waits in the queue is kept in memory."""
        window.lanes -= 1
        if not window.lanes:
            del self._windows[window.queue]
            for record in window:
                del self._records[record.idem]
            # Whoever was woken and has not looked yet finds nothing.
            window.clear()

    def take(self, window: Window, max_events: int, max_bytes: int, now_ms: int) -> list[Lease]:
        """Lends what is in memory."""
        leases = window.take(max_events, max_bytes, partial(self._lend, now_ms=now_ms))
        if leases and window.first() is not None:
            window.waiters.wake_one()
        return leases

    def retry_reading(self) -> None:
        """Has those look again who wait for what could not be read."""
        for window in self._windows.values():
            if window.wants_to_read:
                window.waiters.wake_one()

    # What the file says

    def appended(self, inserted: Inserted) -> None:
        """An event is stored."""
        stored = inserted.stored
        window = self._windows.get(stored.event.queue)
        if window is None or not inserted.is_new or window.holds(stored.block):
            return
        if window.is_complete and not window.is_full:
            window.put(self.remember(OpenEvent(stored, 0, 0)))
            window.read_up_to = stored.block
        else:
            window.is_complete = False
        window.waiters.wake_one()

    def page_read(self, window: Window, version: int, page: Page) -> None:
        """The next events of a queue are read, as was asked for at that version."""
        window.is_reading = False
        window.forget_failure()
        if window.lanes and window.version == version:
            for event in page.events:
                if event.stored.idem not in self._records:
                    window.put(self.remember(event))
                window.read_up_to = event.stored.block
            window.is_complete = page.is_last
        window.waiters.wake_one()

    def brought_back(self, events: list[DueEvent]) -> None:
        """Deferred events are due. They are read when it is their turn."""
        for queue, block in events:
            window = self._windows.get(queue)
            if window is not None:
                window.read_again_from(block)
                window.waiters.wake_one()

    # Events

    def get(self, idem: str) -> Record | None:
        """An event that is in memory."""
        return self._records.get(idem)

    def remember(self, event: OpenEvent) -> Record:
        """Takes an event into memory."""
        attempts = self.attempts.get(event.stored.block, event.attempts)
        record = self._records[event.stored.idem] = Record(event._replace(attempts=attempts))
        return record

    def forget(self, record: Record) -> None:
        """Leaves an event to the file, which knows all of it."""
        del self._records[record.idem]
        self.attempts.pop(record.block, None)

    def lease(self, record: Record) -> Lease:
        """Lends an event, whose turn it may not be."""
        record.place = Place.LEASED
        record.lease_number = next(self._lease_numbers)
        return Lease(record.stored, record.attempts, record.lease_number)

    def held_by(self, lease: Lease) -> Record | None:
        """The event of a lease that has not ended."""
        record = self._records.get(lease.stored.idem)
        return record if record is not None and record.lease_number == lease.token else None

    def count_leased(self) -> Counter[QueueKey]:
        """How many events of each queue are lent out."""
        return Counter(
            record.stored.event.queue
            for record in self._records.values()
            if record.place is not Place.READY and not record.due_ms
        )

    def make_ready(self, record: Record) -> None:
        """Gives an event back."""
        window = self._windows.get(record.stored.event.queue)
        if window is None or not window.holds(record.block):
            # It will be read with the others, when it is its turn.
            del self._records[record.idem]
        else:
            window.put(record)
        if window is not None:
            window.waiters.wake_one()

    def leave_to_file(self, record: Record) -> None:
        """Gives an event back without handing it out before the file is read again."""
        del self._records[record.idem]
        window = self._windows.get(record.stored.event.queue)
        if window is not None:
            window.read_again_from(record.block)

    def make_unready(self, record: Record) -> bool:
        """Takes an event that waits out of its queue; False if it does not wait."""
        if record.place is not Place.READY:
            return False
        window = self._windows.get(record.stored.event.queue)
        if window is not None:
            window.remove(record)
        return True

    def _lend(self, record: Record, now_ms: int) -> Lease | None:
        if record.stored.has_expired(now_ms):
            self._expire(record)
            return None
        record.attempts += 1
        self.attempts[record.block] = record.attempts
        return self.lease(record)
