"""What is to happen when: due times, and a task that waits for the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import anyio

__all__ = ["Schedule"]

# A heap with fewer stale entries than this is not worth rebuilding.
_STALE_ENTRIES = 64


class Schedule:
    """Keys with a due time each. Times are integer milliseconds of any one clock."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        # Also holds entries of keys that were moved or dropped; _due says which count.
        self._heap: list[tuple[int, str]] = []
        self._sooner = anyio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def put(self, key: str, due_ms: int) -> None:
        """Adds a key, or moves it."""
        self._due[key] = due_ms
        heapq.heappush(self._heap, (due_ms, key))
        self._drop_stale_entries()
        if self._heap[0] == (due_ms, key):
            self._sooner.set()

    def drop(self, key: str) -> None:
        """Takes a key out. It need not be there."""
        self._due.pop(key, None)

    def next_due_ms(self) -> int | None:
        """When the first key is due; None when there is none."""
        while self._heap and not self._counts(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_ms: int) -> list[str]:
        """Takes out the keys that are due, the earliest first."""
        keys: list[str] = []
        while (due_ms := self.next_due_ms()) is not None and due_ms <= now_ms:
            _, key = heapq.heappop(self._heap)
            del self._due[key]
            keys.append(key)
        return keys

    async def run(self, now_ms: Callable[[], int], when_due: Callable[[], object]) -> None:
        """Calls a function whenever a key is due, which has to take it. Does not return."""
        while True:
            self._sooner = anyio.Event()
            due_ms = self.next_due_ms()
            if due_ms is not None and due_ms <= now_ms():
                when_due()
                continue
            wait = None if due_ms is None else (due_ms - now_ms()) / 1000
            with anyio.move_on_after(wait):
                await self._sooner.wait()

    def _counts(self, entry: tuple[int, str]) -> bool:
        due_ms, key = entry
        return self._due.get(key) == due_ms

    def _drop_stale_entries(self) -> None:
        # Else deferring one event for ever and again would fill the memory.
        if len(self._heap) > 2 * len(self._due) + _STALE_ENTRIES:
            self._heap = [(due_ms, key) for key, due_ms in self._due.items()]
            heapq.heapify(self._heap)
