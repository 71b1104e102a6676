"""Counting what waits, often enough to look at and not so often that it slows the engine."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ensync.server.store import QueueCounts, Store

__all__ = ["CountedQueues"]

_SHORTEST_REST = 0.9  # seconds
# A store may need a tenth of a second for a million events, in which it does nothing else.
_REST_FOR_EACH_SECOND = 20.0


class CountedQueues:
    """The queues of a store, as they were a moment ago.

    However many pages are open, they share one count, and that takes at most a twentieth of
    the store's time.

    Args:
        store: Whose queues.
        clock: Seconds, never going back.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lock = anyio.Lock()
        self._counts: list[QueueCounts] = []
        self._count_again_at = float("-inf")

    async def counts(self) -> list[QueueCounts]:
        """What is where, by queue."""
        async with self._lock:
            started = self._clock()
            if started >= self._count_again_at:
                self._counts = await self._store.count_queues()
                ended = self._clock()
                rest = max(_SHORTEST_REST, _REST_FOR_EACH_SECOND * (ended - started))
                self._count_again_at = ended + rest
            return self._counts
