"""An engine that keeps its events in a file over restarts, and whose store is watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread

from ensync.server.retention import Retention
from ensync.server.sqlite import SqliteStore
from ensync.server.sqlite_file import SqliteFile
from ensync.server.sqlite_window import Window
from ensync.server.store import EventState, Found, Lease, QueueKey, Settled, StoredEvent
from ensync.testing import RestartableEngine
from tests.faults.soak_ledger import Ledger, State, StoredCopy

__all__ = ["LOOKING_INTERVAL", "NUMBER", "DurableEngine"]

NUMBER = "number"
"""Where, in its metadata, an event says its number."""

KEPT_FOR_EVER = Retention(events=1 << 40, bytes=1 << 50)
# Less than by default, so that the file's growth is not taken for a leak.
CACHE_KIB = 4 * 1024

LOOKING_INTERVAL = 0.1

STATES = {
    EventState.OPEN: State.OPEN,
    EventState.ACKNOWLEDGED: State.ACKNOWLEDGED,
    EventState.DISCARDED: State.DISCARDED,
}


class WatchedStore(SqliteStore):
    """Enters into the ledger what is lent out and what is settled."""

    def __init__(self, file: SqliteFile, ledger: Ledger) -> None:
        super().__init__(file, retention=KEPT_FOR_EVER)
        self._ledger = ledger

    def take_ready(self, window: Window, max_events: int, max_bytes: int) -> list[Lease]:
        leases = super().take_ready(window, max_events, max_bytes)
        for lease in leases:
            self._ledger.lent(number_of(lease.stored), lease.stored.event.queue.app_id)
        return leases

    async def ack(self, lease: Lease) -> Settled:
        return self._noted(lease, await super().ack(lease), State.ACKNOWLEDGED)

    async def discard(self, lease: Lease, reason: str) -> Settled:
        return self._noted(lease, await super().discard(lease, reason), State.DISCARDED)

    def _noted(self, lease: Lease, settled: Settled, state: State) -> Settled:
        if settled is Settled.DONE:
            app_id = lease.stored.event.queue.app_id
            self._ledger.committed(number_of(lease.stored), app_id, state)
        return settled


class DurableEngine(RestartableEngine):
    """Opens its file anew at each start."""

    def __init__(self, data: Path, ledger: Ledger, **options: Any) -> None:
        super().__init__(**options)
        self._data = data
        self._ledger = ledger
        self.restarts = -1

    async def start(self) -> None:
        if self.is_running:
            return
        file = await anyio.to_thread.run_sync(SqliteFile, self._data)
        file.connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._store = WatchedStore(file, self._ledger)
        await super().start()
        self.restarts += 1

    async def stop(self, *, crash: bool = False) -> None:
        if not self.is_running:
            return
        await super().stop(crash=crash)
        await self._store.close()

    async def until_all_settled(self) -> None:
        """Waits until no event waits, is in hand or is deferred."""
        while await self._unsettled():  # noqa: ASYNC110 - a store does not tell by itself
            await anyio.sleep(LOOKING_INTERVAL)

    async def _unsettled(self) -> int:
        counts = await self._store.count_queues()
        return sum(queue.waiting + queue.leased + queue.deferred for queue in counts)

    async def stored(self, queue: QueueKey) -> list[StoredCopy]:
        """All that is in a queue."""
        return [stored_copy(found) for found in await self._store.browse(queue)]


def stored_copy(found: Found) -> StoredCopy:
    """A stored event, as the ledger compares it."""
    stored = found.stored
    app_id = stored.event.queue.app_id
    return StoredCopy(number_of(stored), app_id, stored.idem, STATES[found.state])


def number_of(stored: StoredEvent) -> int:
    """The number that its publisher gave to an event."""
    number = json.loads(stored.event.metadata).get(NUMBER, -1)
    return number if isinstance(number, int) else -1
