"""The store that keeps events in a file: what was answered with success survives the process.

The file says what is stored, settled and deferred. Memory says what is lent out, so
after a restart that waits again, and holds the next events of those queues that
somebody takes from. A queue of a million events costs memory for a few hundred.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from ensync.errors import EnSyncGenericError
from ensync.scopes import background_tasks
from ensync.server.retention import Retention
from ensync.server.schedule import Schedule
from ensync.server.sqlite_apps import SqliteAppStorage
from ensync.server.sqlite_file import SqliteFile
from ensync.server.sqlite_lending import Lending
from ensync.server.sqlite_retention import SettledEvents
from ensync.server.sqlite_tables import DueEvent, OpenEvent, PageLimit, Tables
from ensync.server.sqlite_window import Place, Record, Window
from ensync.server.sqlite_writer import Operation, Writer
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
)

__all__ = ["SqliteStore", "open_sqlite"]

logger = logging.getLogger("ensync")

_DEFAULT_RETENTION = Retention()
_PAGE = PageLimit()

# How long, in seconds, it takes at most to note that an event was taken, or has expired.
_TEND_INTERVAL = 1.0

# How long to wait, in milliseconds, where what is due can't be brought back.
_TRY_AGAIN_MS = 1_000

# The schedule's only key: there may be a million deferred events, so it knows the first.
_FIRST_DUE = "first"


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
        new_idem: Callable[[], str] = lambda: _ordered_idem(time.time_ns() // 1_000_000),
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._file = file
        self._now_ms = now_ms
        self._tables = Tables(file.connection, new_idem)
        self._writer = Writer(file, self._along_with_each_batch, self._tables.forget_cached)
        self._lending = Lending(self._expire)
        self._settled = SettledEvents(self._tables, retention)
        self._schedule = Schedule()
        self._schedule_next(self._tables.next_due_ms())

    # Storing and taking

    async def append(self, event: NewEvent, dedupe: str | None = None) -> StoredEvent:
        """Stores an event."""
        insert = partial(self._tables.insert, event, self._now_ms(), dedupe)
        inserted = await self._writer.do(insert, self._lending.appended)
        return inserted.stored

    async def lane(self, queue: QueueKey) -> Lane:
        """Opens a share in a queue."""
        return _SqliteLane(self, self._lending.open_window(queue))

    def take_ready(self, window: Window, max_events: int, max_bytes: int) -> list[Lease]:
        """Takes what is in memory, and sees to it that more will be."""
        leases = self._lending.take(window, max_events, max_bytes, self._now_ms())
        if window.wants_to_read:
            self._read_on(window)
        return leases

    def close_window(self, window: Window) -> None:
        """A lane is closed."""
        self._lending.close_window(window)

    def _read_on(self, window: Window) -> None:
        window.is_reading = True
        self._writer.start(
            Operation(
                partial(self._tables.page, window.queue, window.read_up_to, _PAGE),
                partial(self._lending.page_read, window, window.version),
                window.not_read,
            )
        )

    # Settling

    async def ack(self, lease: Lease) -> Settled:
        """Settles an event as done."""
        return await self._settle(lease, EventState.ACKNOWLEDGED)

    async def discard(self, lease: Lease, reason: str) -> Settled:
        """Settles an event as unwanted."""
        return await self._settle(lease, EventState.DISCARDED, reason)

    async def defer(self, lease: Lease, delay_ms: int) -> int | None:
        """Makes an event available again after a delay."""
        record = await self._lent(lease)
        if record is None:
            return None
        due_ms = self._now_ms() + delay_ms
        if delay_ms == 0:
            await self._give_back(record)
        else:
            defer = partial(self._tables.set_due, record.stored, due_ms, record.attempts)
            await self._change(record, defer, lambda _: self._deferred(record, due_ms)).wait()
        return due_ms

    async def release(self, leases: Iterable[Lease]) -> None:
        """Makes events available again at once."""
        for lease in leases:
            record = self._lending.held_by(lease)
            if record is not None and record.place is Place.SETTLING:
                record.unwanted = True
            elif record is not None and record.place is Place.LEASED:
                await self._give_back(record)

    async def claim(self, idem: str) -> Lease | None:
        """Leases an event that waits or is deferred."""
        if self._lending.get(idem) is None:
            lease = await self._claim_from_file(idem)
            if lease is not None:
                return lease
        record = self._lending.get(idem)
        if record is None or not self._lending.make_unready(record):
            return None
        return self._lending.lease(record)

    async def _claim_from_file(self, idem: str) -> Lease | None:
        leases: list[Lease] = []
        is_wanted = True

        def lend(event: OpenEvent | None) -> None:
            # Not later: by then the event may be settled, and what was read be out of date.
            if is_wanted and event is not None and self._lending.get(idem) is None:
                leases.append(self._lending.lease(self._lending.remember(event)))

        try:
            await self._writer.do(partial(self._tables.open_event, idem), lend)
        except BaseException:
            is_wanted = False
            with anyio.CancelScope(shield=True):
                await self.release(leases)
            raise
        return leases[0] if leases else None

    async def _settle(self, lease: Lease, state: EventState, reason: str = "") -> Settled:
        record = await self._lent(lease)
        if record is None:
            event = await self._writer.do(partial(self._tables.open_event, lease.stored.idem))
            return Settled.ALREADY if event is None else Settled.STALE
        await self._start_settling(record, state, reason).wait()
        return Settled.DONE

    def _start_settling(self, record: Record, state: EventState, reason: str) -> Operation[int]:
        settle = partial(self._tables.settle, record.stored, state, reason, self._now_ms())
        return self._change(record, settle, partial(self._has_settled, record, state))

    def _has_settled(self, record: Record, state: EventState, size: int) -> None:
        self._lending.forget(record)
        self._settled.add(size)
        if state is EventState.EXPIRED:
            self.expired += 1

    def _expire(self, record: Record) -> None:
        self._start_settling(record, EventState.EXPIRED, "")
        # There is no lease: should this fail, it waits as before.
        record.unwanted = True

    def _leased(self, lease: Lease) -> Record | None:
        record = self._lending.held_by(lease)
        return record if record is not None and record.place is Place.LEASED else None

    async def _lent(self, lease: Lease) -> Record | None:
        """The event of a lease; None when that has ended.

        What is being written about the event is waited for: the lease goes on if it fails.
        """
        while (record := self._lending.held_by(lease)) is not None:
            if record.place is not Place.SETTLING:
                return self._leased(lease)
            await self.flush()
        return None

    async def _give_back(self, record: Record) -> None:
        if not record.due_ms:
            self._lending.make_ready(record)
            return
        bring_back = partial(self._tables.set_due, record.stored, 0, record.attempts)
        operation = self._change(record, bring_back, lambda _: self._brought_back(record))
        # Nobody holds it any more: should this fail, it stays deferred.
        record.unwanted = True
        await operation.wait()

    def _brought_back(self, record: Record) -> None:
        record.due_ms = 0
        self._lending.make_ready(record)

    def _deferred(self, record: Record, due_ms: int) -> None:
        self._lending.forget(record)
        next_due_ms = self._schedule.next_due_ms()
        if next_due_ms is None or due_ms < next_due_ms:
            self._schedule_next(due_ms)

    def _change(
        self, record: Record, perform: Callable[[], Any], succeeded: Callable[[Any], object]
    ) -> Operation[Any]:
        """Has written what becomes of an event; its lease ends unless that fails."""
        operation = Operation(perform, succeeded, lambda _: self._not_changed(record))
        record.place = Place.SETTLING
        record.unwanted = False
        self._lending.attempts.pop(record.block, None)
        self._writer.start(operation)
        return operation

    def _not_changed(self, record: Record) -> None:
        record.place = Place.LEASED
        self._lending.attempts[record.block] = record.attempts
        if record.unwanted:
            self._lending.leave_to_file(record)

    # Looking

    async def find(self, idem: str) -> Found | None:
        """Looks up an event."""
        record = self._lending.get(idem)
        if record is not None and record.place is not Place.SETTLING:
            return Found(record.stored, EventState.OPEN)
        return await self._writer.do(partial(self._tables.find, idem))

    async def browse(self, queue: QueueKey) -> list[Found]:
        """Everything that is kept of a queue."""
        return await self._writer.do(partial(self._tables.browse, queue))

    async def count_queues(self) -> list[QueueCounts]:
        """What is where, by queue."""
        return await self._writer.do(self._counts)

    def _counts(self) -> list[QueueCounts]:
        leased = self._lending.count_leased()
        counts: dict[QueueKey, QueueCounts] = {}
        for queue, ready, deferred in self._tables.count_open():
            in_hand = min(leased[queue], ready)
            counts[queue] = QueueCounts(queue, ready - in_hand, in_hand, deferred)
        for queue, state, number in self._tables.count_settled():
            known = counts.get(queue, QueueCounts(queue))
            counts[queue] = _with_settled(known, state, number)
        return [counts[queue] for queue in sorted(counts)]

    @property
    def events_in_memory(self) -> int:
        """How many events are lent out, or were read because their turn is near."""
        return len(self._lending)

    # Running

    async def run(self) -> None:
        """Writes, brings back deferred events, and forgets what is not kept any more."""
        async with background_tasks() as tasks:
            tasks.start_soon(self._schedule.run, self._now_ms, self._bring_back_due)
            tasks.start_soon(self._tend)
            await self._writer.run()

    async def flush(self) -> None:
        """Waits until all that was asked for is done and on disk."""
        await self._writer.do(_nothing)

    async def catch_up(self) -> None:
        """Does what is due: deferrals, expiry, retention. run() does so by itself."""
        self._bring_back_due()
        self._writer.start(self._expiring())
        await self.flush()
        self._start_forgetting()
        await self.flush()

    async def close(self) -> None:
        """Writes down what is left to note, and closes the file."""
        try:
            if self._lending.attempts:
                with self._file.short_transaction():
                    self._tables.set_attempts(self._lending.attempts.items())
        except EnSyncGenericError as error:
            logger.warning("deliveries of the last second are not counted: %s", error)
        finally:
            with anyio.CancelScope(shield=True):  # else the file would stay open
                await anyio.to_thread.run_sync(self._file.close)

    async def _tend(self) -> None:
        while True:
            await anyio.sleep(_TEND_INTERVAL)
            self._lending.retry_reading()
            self._writer.start(self._expiring())
            self._start_forgetting()

    def _start_forgetting(self) -> None:
        forget = self._settled.forget_some(self._now_ms())
        if forget is not None:
            self._writer.start(forget)

    def _along_with_each_batch(self) -> list[Operation[Any]]:
        operations: list[Operation[Any]] = []
        if self._lending.attempts:
            operations.append(self._noting_attempts())
        forget = self._settled.forget_some(self._now_ms()) if self._settled.are_too_many else None
        return operations if forget is None else [*operations, forget]

    def _noting_attempts(self) -> Operation[None]:
        attempts, self._lending.attempts = self._lending.attempts, {}

        def failed(_: Exception) -> None:
            self._lending.attempts = attempts | self._lending.attempts

        return Operation(partial(self._tables.set_attempts, attempts.items()), failed=failed)

    def _expiring(self) -> Operation[list[OpenEvent]]:
        # What is in memory may be lent out, and is then let alone.
        find = partial(self._tables.expired, self._now_ms(), len(self._lending))
        return Operation(find, self._expired_found)

    def _expired_found(self, events: list[OpenEvent]) -> None:
        for event in events:
            record = self._lending.get(event.stored.idem) or self._lending.remember(event)
            if self._lending.make_unready(record):
                self._expire(record)

    def _bring_back_due(self) -> None:
        now_ms = self._now_ms()
        self._schedule.take_due(now_ms)

        def perform() -> tuple[list[DueEvent], int | None]:
            return self._tables.bring_back_due(now_ms), self._tables.next_due_ms()

        def succeeded(result: tuple[list[DueEvent], int | None]) -> None:
            events, next_due_ms = result
            self._lending.brought_back(events)
            self._schedule_next(next_due_ms)

        def failed(_: Exception) -> None:
            self._schedule_next(self._now_ms() + _TRY_AGAIN_MS)

        self._writer.start(Operation(perform, succeeded, failed))

    def _schedule_next(self, due_ms: int | None) -> None:
        if due_ms is not None:
            self._schedule.put(_FIRST_DUE, due_ms)


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
            self._window.raise_failure()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._store.close_window(self._window)


def _ordered_idem(now_ms: int) -> str:
    # Ids that are made together are beside each other in the index, so that a commit
    # writes few of its pages. 80 of the 128 bits are random.
    return f"{now_ms:012x}{secrets.token_hex(10)}"


def _with_settled(counts: QueueCounts, state: EventState, number: int) -> QueueCounts:
    if state is EventState.ACKNOWLEDGED:
        return counts._replace(acknowledged=number)
    if state is EventState.DISCARDED:
        return counts._replace(discarded=number)
    return counts._replace(expired=number)


def _nothing() -> None:
    """What is to be done when one only wants to know that all before is done."""
