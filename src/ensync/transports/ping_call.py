"""A ping that is under way, whatever it is pinged with."""

from __future__ import annotations

from collections.abc import Callable

from ensync.errors import EnSyncError
from ensync.transports.base import Call, Outcome

__all__ = ["PingCall"]


class PingCall(Call):
    """A ping that waits for its answer. Giving it up is harmless: no answer goes astray by it."""

    def __init__(self, on_answer: Callable[[Outcome | EnSyncError], None]) -> None:
        self.sent = False
        self._on_answer: Callable[[Outcome | EnSyncError], None] | None = on_answer

    def answer(self, answer: Outcome | EnSyncError) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(answer)

    def cancel(self) -> None:
        self._on_answer = None
