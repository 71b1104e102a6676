"""One authenticated link and what is known of it; the states and settings around it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import anyio

from ensync.errors import EnSyncConnectionError, EnSyncError
from ensync.options import Reconnect
from ensync.transports.base import Identity, Link, Outcome

__all__ = ["Answer", "ClientState", "Connection", "SessionSettings"]

# A heartbeat unanswered for this long, while nothing moves, means a dead link, however long
# requests may take.
_MAX_HEARTBEAT_TIMEOUT = 10.0


class ClientState(enum.Enum):
    """What a client is doing about its connection."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Durations in seconds."""

    connect_timeout: float
    request_timeout: float
    heartbeat_interval: float
    drain_timeout: float
    reconnect: Reconnect

    @property
    def heartbeat_timeout(self) -> float:
        return min(self.request_timeout, self.heartbeat_interval, _MAX_HEARTBEAT_TIMEOUT)


class Answer(NamedTuple):
    """What came of sending one request once."""

    result: Outcome | EnSyncError
    sent: bool
    """Whether the engine may have acted on the request."""


class Connection:
    """One authenticated link, for as long as it lives."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.identity: Identity | None = None
        self.error: EnSyncConnectionError | None = None
        self._lost = anyio.Event()
        self.first_stream: str | None = None
        self.multiplexing: bool | None = None
        """Whether events come on other streams than their own; None while not known."""
        self.has_other_streams = False
        """Whether names other than the first one's were subscribed to."""

    @property
    def live_link(self) -> Link:
        assert self.link is not None
        return self.link

    @property
    def is_lost(self) -> bool:
        return self.error is not None

    def lose(self, error: EnSyncConnectionError) -> None:
        if self.error is None:
            self.error = error
            self._lost.set()

    async def wait_lost(self) -> EnSyncConnectionError:
        await self._lost.wait()
        assert self.error is not None
        return self.error

    def may_share_stream(self, event_name: str) -> bool:
        """Whether this name's events may come on one stream with those of others."""
        if self.multiplexing is not None:
            return self.multiplexing
        return event_name == self.first_stream and self.has_other_streams

    def saw_delivery(self, stream_name: str, event_name: str) -> None:
        """Learns from where an event came whether the engine multiplexes (PROTOCOL 3)."""
        if event_name != stream_name:
            self.multiplexing = True
        elif stream_name != self.first_stream and self.multiplexing is None:
            self.multiplexing = False
