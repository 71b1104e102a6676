"""Deadlines of many waits at once, for less than a cancel scope each."""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod

import anyio

__all__ = ["Deadline", "Deadlines"]

# Waits that end within the same twentieth of a second are ended together: never
# early, and at most so much late.
_PER_SECOND = 20


class Deadline(ABC):
    """A wait that may not last; :meth:`cancel` when it is over. Each has to be added first."""

    __slots__ = ("bucket",)

    bucket: dict[Deadline, None]

    @abstractmethod
    def expire(self) -> None:
        """Its time has come."""

    def cancel(self) -> None:
        """The wait ended by itself. Does nothing when it has expired."""
        self.bucket.pop(self, None)


class Deadlines:
    """All deadlines of a session. :meth:`run` has to run as a task."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Deadline, None]] = {}
        self._due: list[int] = []
        self._earlier: anyio.Event | None = None

    def add(self, at: float, deadline: Deadline) -> None:
        """Has it expire when the time is past ``at``, unless it is cancelled first."""
        number = math.ceil(at * _PER_SECOND)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heapq.heappush(self._due, number)
            if self._due[0] == number and self._earlier is not None:
                self._earlier.set()
        deadline.bucket = bucket
        bucket[deadline] = None

    async def run(self) -> None:
        """Ends waits when they are due, until it is cancelled."""
        while True:
            self._expire(anyio.current_time())
            self._earlier = anyio.Event()
            next_due = self._due[0] / _PER_SECOND if self._due else math.inf
            with anyio.CancelScope(deadline=next_due):
                await self._earlier.wait()

    def _expire(self, now: float) -> None:
        while self._due and self._due[0] / _PER_SECOND <= now:
            bucket = self._buckets.pop(heapq.heappop(self._due))
            for deadline in list(bucket):
                deadline.expire()
