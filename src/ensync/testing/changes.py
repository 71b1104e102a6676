"""Waits that end early when something has changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import anyio

from ensync.scopes import until_cancelled

__all__ = ["Changes"]

Ts = TypeVarTuple("Ts")


class Changes:
    """Says that something has changed to whoever waits right now."""

    def __init__(self) -> None:
        self._waits: set[anyio.CancelScope] = set()

    def notify(self) -> None:
        """Wakes all who wait now."""
        for scope in self._waits:
            scope.cancel()

    async def interrupt(self, wait: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Waits as told, but no longer than until the next change.

        The caller then looks again at what it waits for: it may be so or not.
        """
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                await wait(*args)
            finally:
                self._waits.discard(scope)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until a condition holds; it is checked at every change."""
        while not is_so():
            await self.interrupt(until_cancelled)
