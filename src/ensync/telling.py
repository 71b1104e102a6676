"""Requests whose answers nobody waits for: they have a deadline, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ensync.connection import Connection
from ensync.deadlines import Deadline, Deadlines
from ensync.errors import EnSyncError, EnSyncTimeoutError
from ensync.transports.base import Link, Outcome, ReplyCallback, Request

__all__ = ["Tell", "no_answer_in_time", "tell"]

Tell: TypeAlias = Callable[[Connection, Request, ReplyCallback], None]
"""What a session has for this; the deadline is that of all its requests."""


def no_answer_in_time() -> EnSyncTimeoutError:
    """What is said of a request that was given up at its deadline."""
    return EnSyncTimeoutError("no answer from the engine in time")


def tell(
    link: Link, request: Request, on_answer: ReplyCallback, *, deadlines: Deadlines, at: float
) -> None:
    """Sends a request, and gives it up when it has no answer by a deadline.

    ``on_answer`` is called once, perhaps before this returns; with EnSyncTimeoutError when it
    was given up. A request left alone would hold its place on the link for ever, and over
    WebSocket, where replies come in order, all that comes after it.
    """
    telling = _Telling(on_answer)
    deadlines.add(at, telling)
    call = link.send(request, telling.answered)
    telling.give_up = call.cancel


class _Telling(Deadline):
    __slots__ = ("_on_answer", "give_up")

    give_up: Callable[[], None]

    def __init__(self, on_answer: ReplyCallback) -> None:
        self._on_answer: ReplyCallback | None = on_answer

    def answered(self, answer: Outcome | EnSyncError) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            self.cancel()
            on_answer(answer)

    def expire(self) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            self.give_up()
            on_answer(no_answer_in_time())
