"""Discards without anybody who waits: asked for until the engine has answered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ensync.connection import Connection
from ensync.errors import EnSyncError, EnSyncTimeoutError
from ensync.ledger import EventKey
from ensync.settling_answers import means_done
from ensync.telling import Tell
from ensync.transports.base import Discard, Outcome

__all__ = ["RepeatedDiscards"]

logger = logging.getLogger("ensync")

# An engine that leaves so many unanswered, one after the other, is asked no more: over
# WebSocket each of them costs the link.
_MOST_IN_VAIN = 3


class RepeatedDiscards:
    """Those of one subscription.

    When its stream ends they are forgotten: the engine hands out again what it has not
    noted, and then they are asked for again.

    Args:
        event_name: What is subscribed to.
        tell: Sends a request whose answer nobody waits for.
        refused: Told why the engine refuses one. It stays in hand there.
    """

    def __init__(self, event_name: str, tell: Tell, refused: Callable[[str], None]) -> None:
        self._event_name = event_name
        self._tell = tell
        self._refused = refused
        self._connection: Connection | None = None
        self._unasked: dict[EventKey, None] = {}
        self._asked: set[EventKey] = set()
        self._in_vain = 0

    def attached(self, connection: Connection) -> None:
        """The engine has registered the subscription on this connection."""
        self._connection = connection
        self.retry()

    def detached(self) -> None:
        """The stream is gone."""
        self._connection = None
        self._unasked.clear()
        self._asked.clear()

    def add(self, key: EventKey) -> None:
        """Discards one event, now or as soon as there is a stream."""
        if key not in self._asked and self._in_vain < _MOST_IN_VAIN:
            self._unasked[key] = None
            self.retry()

    def retry(self) -> None:
        """Asks again for those that had no answer."""
        connection = self._connection
        if connection is None or self._in_vain >= _MOST_IN_VAIN:
            return
        keys, self._unasked = self._unasked, {}
        for key in keys:
            self._asked.add(key)
            request = Discard(self._event_name, key.idem, "discarded before")
            self._tell(connection, request, partial(self._answered, connection, key))

    def _answered(
        self, connection: Connection, key: EventKey, answer: Outcome | EnSyncError
    ) -> None:
        logger.debug("discarded an event of %r again: %s", self._event_name, answer)
        asked = key in self._asked
        self._asked.discard(key)
        if isinstance(answer, EnSyncError):
            if isinstance(answer, EnSyncTimeoutError):
                self._was_in_vain()
            if asked:
                self._unasked[key] = None
            return
        self._in_vain = 0
        if answer.unauthenticated:
            connection.unknown_to_engine(answer.message)
        elif not means_done(answer):
            self._refused(answer.message)

    def _was_in_vain(self) -> None:
        self._in_vain += 1
        if self._in_vain == _MOST_IN_VAIN:
            logger.warning(
                "the engine does not answer discards of %r: it is asked for no more of them",
                self._event_name,
            )
