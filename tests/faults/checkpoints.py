"""Cancels a coroutine at one of its checkpoints: at each of them, one run after the other."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, cast

import anyio

__all__ = ["Cut", "Scenario", "Way", "run"]


class Way(enum.Enum):
    """How and when the cancellation comes."""

    SUSPENDING = "a scope, as the task suspends"
    # What needs no suspension is reached only so, such as a check for a cancellation.
    RESUMING = "a scope, as the task goes on"
    NATIVE = "Task.cancel(), as the task suspends"
    # What the task waited for is there already, and is lost on the way to it.
    NATIVE_RESUMING = "Task.cancel(), as the task is about to go on"

    @property
    def is_native(self) -> bool:
        """Whether it is asyncio's own way, which no scope can shield from."""
        return self in (Way.NATIVE, Way.NATIVE_RESUMING)


class Cut:
    """Where one run is cancelled.

    Attributes:
        happened: Whether the run came to that.
    """

    def __init__(self, way: Way, at: int) -> None:
        self.way = way
        self._at = at
        self.happened = False
        self.cancel: Callable[[], object] = lambda: None
        self._counting = True
        self._count = 0

    def wait_for_begin(self) -> None:
        """Has nothing counted before begin()."""
        self._counting = False

    def begin(self) -> None:
        """The part that is of interest begins here."""
        self._counting = True

    def suspending(self, trap: object) -> None:
        """The task is about to suspend, until what it waits for comes."""
        self._count += self._counting
        if not self._counting or self._count != self._at or self.way is Way.RESUMING:
            return
        self.happened = True
        if self.way is Way.NATIVE_RESUMING and isinstance(trap, asyncio.Future):
            future = cast("asyncio.Future[object]", trap)
            # It comes before the task's own, so that the task finds both when it goes on.
            future.add_done_callback(self._cancel_before)
        else:
            self.cancel()

    def _cancel_before(self, _future: asyncio.Future[object]) -> None:
        self.cancel()

    def resuming(self) -> None:
        """The task goes on."""
        if self._counting and self._count == self._at and self.way is Way.RESUMING:
            self.happened = True
            self.cancel()


Scenario = Callable[[Cut], Coroutine[Any, Any, object]]


class _Watched(Awaitable[None]):
    """A coroutine whose every suspension is noticed. Works on any event loop."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], cut: Cut) -> None:
        self._coroutine = coroutine
        self._cut = cut

    def __await__(self) -> Generator[Any, Any, None]:
        resume: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            try:
                trap = resume()
            except StopIteration:
                return
            self._cut.suspending(trap)
            try:
                value = yield trap
            except BaseException as error:  # noqa: BLE001 - the coroutine's to handle
                resume = partial(self._coroutine.throw, error)
            else:
                resume = partial(self._coroutine.send, value)
            self._cut.resuming()


async def run(scenario: Scenario, way: Way, at: int) -> Cut:
    """Runs a scenario, cancelled at its checkpoint of this number, if it comes to that."""
    cut = Cut(way, at)
    if way.is_native:
        await _run_as_task(scenario, cut)
        return cut
    with anyio.CancelScope() as scope:
        cut.cancel = scope.cancel
        await _Watched(scenario(cut), cut)
    return cut


async def _run_as_task(scenario: Scenario, cut: Cut) -> None:
    async def watched() -> None:
        await _Watched(scenario(cut), cut)

    task = asyncio.create_task(watched())
    cut.cancel = task.cancel
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
