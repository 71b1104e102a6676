"""Discards without anybody who waits: asked for until the engine has answered."""

from __future__ import annotations

import logging
from functools import partial

from ensync.connection import Connection
from ensync.errors import EnSyncError
from ensync.ledger import EventKey
from ensync.transports.base import Discard, Outcome

__all__ = ["RepeatedDiscards"]

logger = logging.getLogger("ensync")


class RepeatedDiscards:
    """Those of one subscription.

    When its stream ends they are forgotten: the engine hands out again what it has not
    noted, and then they are asked for again.
    """

    def __init__(self, event_name: str) -> None:
        self._event_name = event_name
        self._connection: Connection | None = None
        self._unasked: list[EventKey] = []

    def attached(self, connection: Connection) -> None:
        """The engine has registered the subscription on this connection."""
        self._connection = connection
        self.retry()

    def detached(self) -> None:
        """The stream is gone."""
        self._connection = None
        self._unasked.clear()

    def add(self, key: EventKey) -> None:
        """Discards one event, now or as soon as there is a stream."""
        self._unasked.append(key)
        self.retry()

    def retry(self) -> None:
        """Asks again for those that had no answer."""
        if self._connection is None:
            return
        keys, self._unasked = self._unasked, []
        for key in keys:
            request = Discard(self._event_name, key.idem, "discarded before")
            self._connection.live_link.send(request, partial(self._answered, key))

    def _answered(self, key: EventKey, answer: Outcome | EnSyncError) -> None:
        logger.debug("discarded an event of %r again: %s", self._event_name, answer)
        if isinstance(answer, EnSyncError):
            self._unasked.append(key)
