"""The store that keeps events in a file: what was answered with success survives the process.

The file says what is stored, settled and deferred. Memory says what is lent out, so
after a restart that waits again, and holds the next events of those queues that
somebody takes from. A queue of a million events costs memory for a few hundred.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any

import anyio
import anyio.to_thread

from ensync.server.retention import Retention
from ensync.server.schedule import Schedule
from ensync.server.sqlite_apps import SqliteAppStorage
from ensync.server.sqlite_file import SqliteFile
from ensync.server.sqlite_retention import SettledKeeper
from ensync.server.sqlite_tables import DueEvent, OpenEvent, Page, PageLimit, Tables
from ensync.server.sqlite_window import Place, Record, Window
from ensync.server.sqlite_writer import Operation, Writer
from ensync.server.store import (
    EventState,
    Found,
    Lane,
    Lease,
    NewEvent,
    QueueKey,
    Settled,
    Store,
    StoredEvent,
)

__all__ = ["SqliteStore", "open_sqlite"]

_DEFAULT_RETENTION = Retention()
_PAGE = PageLimit()

# How long, in seconds, it takes at most to note that an event was taken, or has expired.
_TEND_INTERVAL = 1.0

_DUE = "next"


async def open_sqlite(
    path: str | os.PathLike[str], retention: Retention = _DEFAULT_RETENTION
) -> tuple[SqliteStore, SqliteAppStorage]:
    """Opens a data file, which is made if need be. Closing the store closes it.

    Raises:
        EnSyncGenericError: It can't be used, or is in use.
    """
    file = await anyio.to_thread.run_sync(SqliteFile, path)
    return SqliteStore(file, retention=retention), SqliteAppStorage(file)


class SqliteStore(Store):
    """Keeps events in a data file.

    Its methods wait for run(), which does the work.

    Args:
        file: The file. It is closed with the store.
        retention: What is kept of settled events.
        new_idem: Makes the id of an event.
        now_ms: Milliseconds since the epoch.
    """

    def __init__(
        self,
        file: SqliteFile,
        *,
        retention: Retention = _DEFAULT_RETENTION,
        new_idem: Callable[[], str] = lambda: secrets.token_hex(16),
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._file = file
        self._now_ms = now_ms
        self._tables = Tables(file.connection, new_idem)
        self._settled = SettledKeeper(self._tables, retention)
        self._writer = Writer(file, self._along_with_each_batch, self._tables.forget_cached)
        self._windows: dict[QueueKey, Window] = {}
        self._records: dict[str, Record] = {}
        self._lease_numbers = count(1)
        # How often events were taken, as far as the file does not know: by block.
        self._attempts: dict[int, int] = {}
        self._schedule = Schedule()
        self._schedule_next(self._tables.next_due_ms())

    # Storing and taking

    async def append(self, event: NewEvent, dedupe: str | None = None) -> StoredEvent:
        """Stores an event."""
        insert = partial(self._tables.insert, event, self._now_ms(), dedupe)
        return await self._writer.do(insert, self._appended)

    async def lane(self, queue: QueueKey) -> Lane:
        """Opens a share in a queue."""
        window = self._windows.get(queue)
        if window is None:
            window = self._windows[queue] = Window(queue)
        window.lanes += 1
        return _SqliteLane(self, window)

    def close_lane(self, window: Window) -> None:
        """A lane is closed; without any, nothing of the queue is kept in memory."""
        window.lanes -= 1
        if not window.lanes:
            del self._windows[window.queue]
            for record in window:
                del self._records[record.stored.idem]

    def take_ready(self, window: Window, max_events: int, max_bytes: int) -> list[Lease]:
        """Takes what is in memory, and sees to it that more will be."""
        now_ms = self._now_ms()
        leases = window.take(max_events, max_bytes, partial(self._lend, now_ms=now_ms))
        if window.wants_to_read:
            self._read_on(window)
        if leases and window.first() is not None:
            window.waiters.wake_one()
        return leases

    # Settling

    async def ack(self, lease: Lease) -> Settled:
        """Settles an event as done."""
        return await self._settle(lease, EventState.ACKNOWLEDGED, "")

    async def discard(self, lease: Lease, reason: str) -> Settled:
        """Settles an event as unwanted."""
        return await self._settle(lease, EventState.DISCARDED, reason)

    async def defer(self, lease: Lease, delay_ms: int) -> int | None:
        """Makes an event available again after a delay."""
        record = self._leased(lease)
        if record is None:
            return None
        due_ms = self._now_ms() + delay_ms
        if delay_ms == 0:
            await self._give_back(record)
        else:
            await self._set_due(record, due_ms, self._deferred)
        return due_ms

    async def release(self, leases: Iterable[Lease]) -> None:
        """Makes events available again at once."""
        for lease in leases:
            record = self._leased(lease)
            if record is not None:
                await self._give_back(record)

    async def claim(self, idem: str) -> Lease | None:
        """Leases an event that waits or is deferred."""
        if idem not in self._records:
            event = await self._writer.do(partial(self._tables.open_event, idem))
            if event is None:
                return None
            if idem not in self._records:
                return self._lease(self._remember(event))
        record = self._records[idem]
        if record.place is not Place.READY:
            return None
        self._windows[record.stored.event.queue].remove(record)
        return self._lease(record)

    # Looking

    async def find(self, idem: str) -> Found | None:
        """Looks up an event."""
        record = self._records.get(idem)
        if record is not None and record.place is not Place.SETTLING:
            return Found(record.stored, EventState.OPEN)
        return await self._writer.do(partial(self._tables.find, idem))

    async def browse(self, queue: QueueKey) -> list[Found]:
        """Everything that is kept of a queue."""
        return await self._writer.do(partial(self._tables.browse, queue))

    # Running

    async def run(self) -> None:
        """Writes, brings back deferred events, and forgets what is not kept any more."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._writer.run)
            tasks.start_soon(self._schedule.run, self._now_ms, self._start_bringing_back)
            tasks.start_soon(self._tend)

    async def flush(self) -> None:
        """Waits until all that was asked for is done and on disk."""
        await self._writer.do(_nothing)

    async def bring_back_due(self) -> None:
        """Makes deferred events available whose time has come. run() does this by itself."""
        while (due_ms := self._schedule.next_due_ms()) is not None and due_ms <= self._now_ms():
            self._start_bringing_back()
            await self.flush()

    async def close(self) -> None:
        """Writes down what is left to note, and closes the file."""
        try:
            if self._attempts:
                with self._file.short_transaction():
                    self._tables.set_attempts(self._attempts.items())
        finally:
            with anyio.CancelScope(shield=True):  # else the file would stay open
                await anyio.to_thread.run_sync(self._file.close)

    # Inside: storing and taking

    def _appended(self, stored: StoredEvent) -> None:
        window = self._windows.get(stored.event.queue)
        if window is None:
            return
        if window.is_complete and not window.is_full and not window.holds(stored.block):
            window.put(self._remember(OpenEvent(stored, 0, 0)))
            window.read_up_to = stored.block
        elif not window.holds(stored.block):
            window.is_complete = False
        window.waiters.wake_one()

    def _read_on(self, window: Window) -> None:
        window.is_reading = True
        version = window.version
        self._writer.start(
            Operation(
                partial(self._tables.page, window.queue, window.read_up_to, _PAGE),
                lambda page: self._page_read(window, version, page),
                partial(_page_not_read, window),
            )
        )

    def _page_read(self, window: Window, version: int, page: Page) -> None:
        window.is_reading = False
        if window.lanes and window.version == version:
            for event in page.events:
                if event.stored.idem not in self._records:
                    window.put(self._remember(event))
                window.read_up_to = event.stored.block
            window.is_complete = page.is_last
        window.waiters.wake_one()

    def _remember(self, event: OpenEvent) -> Record:
        block = event.stored.block
        noted = self._attempts.get(block, event.attempts)
        record = Record(event._replace(attempts=noted))
        self._records[event.stored.idem] = record
        return record

    def _lend(self, record: Record, now_ms: int) -> Lease | None:
        if record.stored.has_expired(now_ms):
            self._expire(record)
            return None
        record.attempts += 1
        self._attempts[record.block] = record.attempts
        return self._lease(record)

    def _lease(self, record: Record) -> Lease:
        record.place = Place.LEASED
        record.lease_number = next(self._lease_numbers)
        return Lease(record.stored, record.attempts, record.lease_number)

    # Inside: settling

    def _leased(self, lease: Lease) -> Record | None:
        record = self._records.get(lease.stored.idem)
        if record is None or record.place is not Place.LEASED:
            return None
        return record if record.lease_number == lease.token else None

    async def _settle(self, lease: Lease, state: EventState, reason: str) -> Settled:
        record = self._leased(lease)
        if record is None:
            is_open = await self._writer.do(partial(self._tables.open_event, lease.stored.idem))
            return Settled.ALREADY if is_open is None else Settled.STALE
        await self._start_settling(record, state, reason).wait()
        return Settled.DONE

    def _start_settling(self, record: Record, state: EventState, reason: str) -> Operation[int]:
        operation = Operation(
            partial(self._tables.settle, record.stored, state, reason, self._now_ms()),
            partial(self._has_settled, record),
            lambda _: self._not_changed(record),
        )
        record.place = Place.SETTLING
        self._writer.start(operation)
        return operation

    def _has_settled(self, record: Record, size: int) -> None:
        self._forget(record)
        self._settled.add(size)

    def _expire(self, record: Record) -> None:
        self._start_settling(record, EventState.EXPIRED, "")
        self.expired += 1

    async def _set_due(
        self, record: Record, due_ms: int, succeeded: Callable[[Record, int], object]
    ) -> None:
        operation = Operation(
            partial(self._tables.set_due, record.stored, due_ms, record.attempts),
            lambda _: succeeded(record, due_ms),
            lambda _: self._not_changed(record),
        )
        record.place = Place.SETTLING
        self._writer.start(operation)
        await operation.wait()

    def _deferred(self, record: Record, due_ms: int) -> None:
        self._forget(record)
        next_due_ms = self._schedule.next_due_ms()
        if next_due_ms is None or due_ms < next_due_ms:
            self._schedule_next(due_ms)

    async def _give_back(self, record: Record) -> None:
        if record.due_ms:
            await self._set_due(record, 0, self._not_deferred)
        else:
            self._make_ready(record)

    def _not_deferred(self, record: Record, _due_ms: int) -> None:
        record.due_ms = 0
        self._make_ready(record)

    def _make_ready(self, record: Record) -> None:
        window = self._windows.get(record.stored.event.queue)
        if window is None or not window.holds(record.block):
            # It will be read with the others, when it is its turn.
            del self._records[record.stored.idem]
        else:
            window.put(record)
        if window is not None:
            window.waiters.wake_one()

    def _not_changed(self, record: Record) -> None:
        """It could not be written: the lease stays as it was, or ends with an event's life."""
        record.place = Place.LEASED

    def _forget(self, record: Record) -> None:
        del self._records[record.stored.idem]
        self._attempts.pop(record.block, None)

    # Inside: by itself

    def _along_with_each_batch(self) -> list[Operation[Any]]:
        operations: list[Operation[Any]] = []
        if self._attempts:
            attempts, self._attempts = self._attempts, {}
            operations.append(
                Operation(
                    partial(self._tables.set_attempts, list(attempts.items())),
                    failed=lambda _: self._attempts_not_noted(attempts),
                )
            )
        if self._settled.exceeds(self._now_ms()):
            operations.append(self._settled.forget_some(self._now_ms()))
        return operations

    def _attempts_not_noted(self, attempts: dict[int, int]) -> None:
        self._attempts = attempts | self._attempts

    async def _tend(self) -> None:
        while True:
            await anyio.sleep(_TEND_INTERVAL)
            await self.tend()

    async def tend(self) -> None:
        """Drops what has expired, and forgets what is not kept. run() does this by itself."""
        find_expired = partial(self._tables.expired, self._now_ms(), len(self._records))
        self._writer.start(Operation(find_expired, self._expired_found))
        await self.flush()

    def _expired_found(self, events: list[OpenEvent]) -> None:
        for event in events:
            record = self._records.get(event.stored.idem)
            if record is None:
                self._expire(self._remember(event))
            elif record.place is Place.READY:
                self._windows[record.stored.event.queue].remove(record)
                self._expire(record)

    def _start_bringing_back(self) -> None:
        self._schedule.take_due(self._now_ms())
        self._writer.start(
            Operation(partial(self._tables.bring_back_due, self._now_ms()), self._brought_back)
        )
        self._writer.start(Operation(self._tables.next_due_ms, self._schedule_next))

    def _brought_back(self, events: list[DueEvent]) -> None:
        for queue, block in events:
            window = self._windows.get(queue)
            if window is not None:
                window.read_again_from(block)
                window.waiters.wake_one()

    def _schedule_next(self, due_ms: int | None) -> None:
        if due_ms is not None:
            self._schedule.put(_DUE, due_ms)


class _SqliteLane(Lane):
    def __init__(self, store: SqliteStore, window: Window) -> None:
        self._store = store
        self._window = window
        self._closed = False

    async def take(self, max_events: int, max_bytes: int) -> list[Lease]:
        while True:
            # Nothing is awaited between taking and returning: a cancel can't come between.
            leases = self._store.take_ready(self._window, max_events, max_bytes)
            if leases:
                return leases
            await self._window.waiters.wait()
            self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._window.failure = self._window.failure, None
        if failure is not None:
            raise failure

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._store.close_lane(self._window)


def _page_not_read(window: Window, error: Exception) -> None:
    window.is_reading = False
    window.failure = error
    window.waiters.wake_one()


def _nothing() -> None:
    """What is to be done when one only wants to know that all before is done."""
