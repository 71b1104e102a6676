"""A thread with an asyncio loop, in which an engine runs beside any kind of test."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple, overload

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal

from ensync.testing.watch import Watch

__all__ = ["EngineThread", "WatchInThread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class EngineThread:
    """Calls what belongs to an engine in the engine's own thread, from every other one.

    Args:
        portal: The way in. Its thread is the engine's.

    Attributes:
        identity: The thread, as ``threading.get_ident()`` names it.
    """

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self.identity = portal.call(threading.get_ident)

    @property
    def is_here(self) -> bool:
        """Whether the caller is in this thread already."""
        return threading.get_ident() == self.identity

    @overload
    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...
    @overload
    def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T: ...
    def call(self, function: Callable[[*Ts], object], *args: *Ts) -> object:
        """Calls a function, async or not, and blocks until it has returned."""
        return self._portal.call(function, *args)

    def do(self, function: Callable[[], T]) -> T:
        """Calls a plain function, from this thread too, and blocks until it has returned."""
        return function() if self.is_here else self._portal.call(function)

    async def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Calls an async function, and waits without blocking. Cancelling this cancels it."""
        if self.is_here:
            return await function(*args)
        future = self._portal.start_task_soon(function, *args)
        try:
            return await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
        finally:
            future.cancel()


class WatchInThread(Watch):
    """A Watch that may be used in any thread; its waiters wait in the engine's."""

    def __init__(self, thread: EngineThread) -> None:
        super().__init__()
        self._thread = thread

    def notify(self) -> None:
        """Has all who wait look again."""
        self._thread.do(super().notify)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until a condition holds; it is checked at every change."""
        await self._thread.run(super().until, is_so)
