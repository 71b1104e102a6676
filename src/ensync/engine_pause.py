"""Holding the engine back by pausing a subscription there, where its stream can't be held."""

from __future__ import annotations

import logging

from ensync.connection import Connection
from ensync.errors import EnSyncError
from ensync.telling import Tell
from ensync.transports.base import Continue, Outcome, Pause

__all__ = ["EnginePause"]

logger = logging.getLogger("ensync")


class EnginePause:
    """Brings what the engine does in line with what is wanted, one request at a time."""

    def __init__(self, event_name: str, tell: Tell) -> None:
        self._event_name = event_name
        self._tell = tell
        self._connection: Connection | None = None
        self._is_paused = False
        self._asking = False
        self.wanted = False

    def attached(self, connection: Connection) -> None:
        """A new registration is not paused, unless one before it was, on the same connection."""
        self._connection = connection
        # Then it is asked for what is wanted, whatever the engine has made of it.
        self._is_paused = not self.wanted and connection.may_be_paused(self._event_name)
        self._asking = False
        self.reconcile()

    def detached(self) -> None:
        self._connection = None

    def want(self, paused: bool) -> None:
        self.wanted = paused
        self.reconcile()

    def told(self, paused: bool) -> None:
        """The user paused or continued, and the engine did."""
        self.wanted = self._is_paused = paused

    def unsure(self) -> None:
        """The user asked, and it is not known what the engine made of it."""
        self._is_paused = not self.wanted
        self.reconcile()

    def reconcile(self) -> None:
        """Asks for what is wanted, unless that is so already or is being asked for."""
        connection = self._connection
        if self._asking or connection is None or self.wanted == self._is_paused:
            return
        asked_for = self.wanted

        def on_reply(answer: Outcome | EnSyncError) -> None:
            if connection is self._connection:
                self._answered(asked_for, answer)

        self._asking = True
        request = (
            Pause(self._event_name, "buffer full") if asked_for else Continue(self._event_name)
        )
        self._tell(connection, request, on_reply)

    def _answered(self, asked_for: bool, answer: Outcome | EnSyncError) -> None:
        self._asking = False
        if isinstance(answer, EnSyncError):
            logger.debug("no answer to a pause of %r: %s", self._event_name, answer)
            return
        if not answer.success:
            logger.warning("the engine refused to pause %r: %s", self._event_name, answer.message)
        self._is_paused = asked_for
        self.reconcile()
