"""The requests of one socket, in the one order in which they are written and answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ensync.transports.cork import ENOUGH_FOR_A_WRITE, CallSoon, Cork
from ensync.transports.websocket_calls import PendingCall
from ensync.transports.websocket_direct import DirectConnection
from ensync.websocket_text import PONG, ServerFrame, WebSocketTextError

__all__ = ["RequestPipeline"]


class RequestPipeline(Cork):
    """Writes requests as the socket takes them, and matches each reply with its request.

    Args:
        socket: What is written to.
        call_soon: Calls a function in the next turn of the loop.
        on_failure: Told when writing fails, which it should not.
    """

    def __init__(
        self,
        socket: DirectConnection,
        call_soon: CallSoon,
        on_failure: Callable[[Exception], None],
    ) -> None:
        super().__init__(call_soon)
        self._socket = socket
        self._on_failure = on_failure
        self._unsent: deque[PendingCall[Any]] = deque()
        self._unanswered: deque[PendingCall[Any]] = deque()
        self._pong_due = False
        self._is_catching_up = False

    def add(self, call: PendingCall[Any]) -> None:
        """Has a request written when all before it are."""
        self._unsent.append(call)
        self.flush_soon()

    def catch_up(self) -> None:
        """Writes no request until all that were written are answered."""
        self._is_catching_up = True

    def answer_ping(self) -> None:
        """Has a ping of the engine's answered, before any request."""
        self._pong_due = True
        self.flush_soon()

    def flush(self) -> None:
        try:
            while self._socket.takes_more:
                messages = self._next_messages()
                if not messages:
                    return
                self._socket.write(messages)
        except Exception as error:  # noqa: BLE001 - what was taken to be written is lost
            self._on_failure(error)

    def _next_messages(self) -> list[str]:
        messages: list[str] = []
        size = 0
        while size < ENOUGH_FOR_A_WRITE:
            message = self._next_message()
            if message is None:
                break
            messages.append(message)
            size += len(message)  # in characters, about as many bytes
        return messages

    def _next_message(self) -> str | None:
        if self._pong_due:
            self._pong_due = False
            return PONG
        if self._is_catching_up and self._unanswered:
            return None
        self._is_catching_up = False
        while self._unsent:
            call = self._unsent.popleft()
            if not call.is_over:
                self._unanswered.append(call)
                return call.leave()
        return None

    def answer(self, reply: ServerFrame) -> None:
        """Hands a reply to the request that it is for.

        Raises:
            WebSocketTextError: It can't be for that.
        """
        if not self._unanswered:
            raise WebSocketTextError("a reply that nobody waits for")
        answer = self._unanswered[0].read(reply)
        call = self._unanswered.popleft()
        if self._is_catching_up and not self._unanswered:
            self.flush_soon()
        call.answer(answer)

    def take_all(self) -> list[PendingCall[Any]]:
        """All requests without an answer, in their order, of which nothing is kept."""
        calls = [*self._unanswered, *self._unsent]
        self._unanswered.clear()
        self._unsent.clear()
        return calls
