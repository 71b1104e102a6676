"""Tasks that wait for something there is not enough of for all of them."""

from __future__ import annotations

from collections import deque

import anyio

__all__ = ["Waiters"]


class Waiters:
    """Wakes the tasks that wait, one at a time, the one that waits longest first."""

    def __init__(self) -> None:
        self._waiting: deque[anyio.Event] = deque()

    async def wait(self) -> None:
        """Returns when it is this task's turn to look."""
        wake = anyio.Event()
        self._waiting.append(wake)
        try:
            await wake.wait()
        except BaseException:
            # The wake-up must not be lost with the one that got it.
            self._cancelled(wake)
            raise

    def wake_one(self) -> None:
        """Wakes the next. Who finds more than it needs wakes one more."""
        if self._waiting:
            self._waiting.popleft().set()

    def wake_all(self) -> None:
        """Wakes everybody."""
        while self._waiting:
            self.wake_one()

    def _cancelled(self, wake: anyio.Event) -> None:
        if wake.is_set():
            self.wake_one()
        else:
            self._waiting.remove(wake)
