"""How long leaving subscriptions may wait for the engine, one by one and all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

__all__ = ["Draining"]


class Draining:
    """Owned by a session.

    Each leave may take the time that is allowed, while the engine is there. Of an engine
    that is gone or silent, those that follow each other wait for it once, and not each
    anew: a program with hundreds of subscriptions would not come to its end.

    Args:
        timeout: Seconds.
        progress: Gives a number that changes with everything that leaving waits for.
    """

    def __init__(self, timeout: float, progress: Callable[[], int]) -> None:
        self._timeout = timeout
        self._progress = progress
        self._in_vain_since: float | None = None
        self._had_link = False
        self._progress_then = 0
        self._last_left = -math.inf

    def has_new_link(self) -> None:
        """There is a link again. One that was silent is not trusted for being another."""
        if not self._had_link:
            self._in_vain_since = None

    @contextmanager
    def bounded(self, *, has_link: bool) -> Iterator[None]:
        """A scope for one leave: shielded, and cancelled when it has taken too long."""
        began, progress = anyio.current_time(), self._progress()
        deadline = self._deadline(began, has_link)
        try:
            with anyio.CancelScope(deadline=deadline, shield=True) as scope:
                yield
            if scope.cancelled_caught and self._progress() == progress:
                self._waits_in_vain(began, has_link)
        finally:
            self._last_left = anyio.current_time()

    def _deadline(self, now: float, has_link: bool) -> float:
        if self._may_hope_again(now):
            self._in_vain_since = None
        if not has_link:
            self._waits_in_vain(now, has_link)
        since = now if self._in_vain_since is None else self._in_vain_since
        return since + self._timeout

    def _may_hope_again(self, now: float) -> bool:
        return self._progress() != self._progress_then or now - self._last_left > self._timeout

    def _waits_in_vain(self, since: float, has_link: bool) -> None:
        if self._in_vain_since is None:
            self._in_vain_since, self._had_link = since, has_link
            self._progress_then = self._progress()
