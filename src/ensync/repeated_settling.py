"""Deferrals and discards without anybody who waits: asked for until the engine has answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ensync.connection import Connection
from ensync.errors import EnSyncError
from ensync.ledger import EventKey
from ensync.transports.base import Call, Defer, Discard, Outcome

__all__ = ["RepeatedSettling"]


class _Asked:
    """One request on its way."""

    __slots__ = ("call", "deadline", "request")

    def __init__(self, request: Defer | Discard, deadline: float) -> None:
        self.request = request
        self.deadline = deadline
        self.call: Call | None = None


class RepeatedSettling:
    """What one subscription asks for in this way.

    When its stream ends it is forgotten: the engine hands out again what it has not settled.

    Args:
        timeout: Seconds that a request may go unanswered.
        clock: The time now, in seconds.
        answered: Told of each answer.
    """

    def __init__(
        self,
        *,
        timeout: float,
        clock: Callable[[], float],
        answered: Callable[[EventKey, Defer | Discard, Outcome], None],
    ) -> None:
        self._timeout = timeout
        self._clock = clock
        self._on_answer = answered
        self._connection: Connection | None = None
        self._unasked: dict[EventKey, Defer | Discard] = {}
        self._asked: dict[EventKey, _Asked] = {}

    def attached(self, connection: Connection) -> None:
        """The engine has registered the subscription on this connection."""
        self._connection = connection
        self._ask()

    def detached(self) -> list[EventKey]:
        """The stream is gone. Returns what the engine has not answered."""
        self._connection = None
        forgotten = [*self._unasked, *self._asked]
        self._unasked.clear()
        self._asked.clear()
        return forgotten

    def add(self, key: EventKey, request: Defer | Discard) -> None:
        """Asks for one, now or as soon as there is a stream."""
        self._unasked[key] = request
        self._ask()

    def retry(self) -> None:
        """Asks again for what had no answer, or none in time."""
        now = self._clock()
        late = [key for key, asked in self._asked.items() if asked.deadline <= now]
        given_up = [self._asked.pop(key) for key in late]
        self._unasked.update(zip(late, (asked.request for asked in given_up), strict=True))
        for asked in given_up:
            # This may end the link, which answers all that are still asked for.
            if asked.call is not None:
                asked.call.cancel()
        self._ask()

    def _ask(self) -> None:
        if self._connection is None:
            return
        unasked, self._unasked = self._unasked, {}
        for key, request in unasked.items():
            self._send(self._connection, key, request)

    def _send(self, connection: Connection, key: EventKey, request: Defer | Discard) -> None:
        asked = self._asked[key] = _Asked(request, self._clock() + self._timeout)
        on_reply = partial(self._answered, connection, key, asked)
        asked.call = connection.live_link.send(request, on_reply)

    def _answered(
        self, connection: Connection, key: EventKey, asked: _Asked, answer: Outcome | EnSyncError
    ) -> None:
        if self._asked.get(key) is not asked:
            return
        del self._asked[key]
        if isinstance(answer, EnSyncError):
            self._unasked[key] = asked.request
        elif answer.unauthenticated:
            self._unasked[key] = asked.request
            connection.unknown_to_engine(answer.message)
        else:
            self._on_answer(key, asked.request, answer)
