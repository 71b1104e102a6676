"""Connections on the threshold: accepted, and still without the TLS that their protocol needs."""

from __future__ import annotations

from typing import Any

from ensync.transports.bridge import accepting_task

__all__ = ["TLS_HANDSHAKE_TIMEOUT", "Arriving"]

# In seconds. Some loops don't tell who is arriving; such a connection may outlive its door
# for as long.
TLS_HANDSHAKE_TIMEOUT = 3.0


class Arriving:
    """Who is arriving at a server of asyncio, so that it can be turned away.

    A protocol gets to know its connection when the TLS handshake is over. Until then, it
    would hold up the server's end, or stay open after it.
    """

    def __init__(self) -> None:
        self._tasks: set[Any] = set()

    def note(self) -> None:
        """To be called where the server has the protocol of a connection made."""
        task = accepting_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def turn_away(self) -> None:
        """Ends the connections that have not arrived; in a few turns of the loop."""
        for task in list(self._tasks):
            task.cancel()
