"""Waiting across the two sides of an engine."""

from __future__ import annotations

from collections.abc import Callable

import anyio

__all__ = ["Watch"]


class Watch:
    """Says that something has changed, from either side of a trio program to the other.

    The engine's own code runs on the asyncio side. An event can be set from both
    sides, and only be awaited on the one it was made on: so each waiter brings its own.
    """

    def __init__(self) -> None:
        self._waiters: set[anyio.Event] = set()

    def notify(self) -> None:
        """Has all who wait look again."""
        for waiter in self._waiters:
            waiter.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until a condition holds; it is checked at every change."""
        while not is_so():
            waiter = anyio.Event()
            self._waiters.add(waiter)
            try:
                await waiter.wait()
            finally:
                self._waiters.discard(waiter)
