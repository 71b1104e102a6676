"""Requests that are under way on a WebSocket link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ensync.errors import EnSyncError
from ensync.transports.base import Call
from ensync.websocket_text import ServerFrame

__all__ = ["PendingCall", "UnsentCall"]

T = TypeVar("T")


class PendingCall(Call, Generic[T]):
    """A request that waits to be written, or for its reply.

    Args:
        text: What is to be written.
        read: Tells what a reply says. Raises EnSyncError to answer with an error, and
            WebSocketTextError when this can't be the reply to this request.
        on_answer: Gets what was read.
        on_given_up: Called when this is cancelled while a reply is still to come.
    """

    __slots__ = ("_on_answer", "_on_given_up", "_read", "_text", "sent")

    def __init__(
        self,
        text: str,
        read: Callable[[ServerFrame], T],
        on_answer: Callable[[T | EnSyncError], None],
        on_given_up: Callable[[], None],
    ) -> None:
        self.sent = False
        self._text = text
        self._read = read
        self._on_answer: Callable[[T | EnSyncError], None] | None = on_answer
        self._on_given_up = on_given_up

    @property
    def is_over(self) -> bool:
        return self._on_answer is None

    def leave(self) -> str:
        """Returns what to write, at once: from now on it counts as sent."""
        self.sent = True
        text, self._text = self._text, ""  # large, and no longer needed
        return text

    def read(self, frame: ServerFrame) -> T | EnSyncError:
        try:
            return self._read(frame)
        except EnSyncError as error:
            return error

    def answer(self, answer: T | EnSyncError) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(answer)

    def cancel(self) -> None:
        if self._on_answer is None:
            return
        self._on_answer = None
        self._text = ""
        if self.sent:
            self._on_given_up()


class UnsentCall(Call):
    """A request that was refused before it was sent, and is answered already."""

    def __init__(self) -> None:
        self.sent = False

    def cancel(self) -> None:
        """Nothing is left to cancel."""
