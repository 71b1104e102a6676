"""One authenticated link and what is known of it; the states and settings around it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import anyio

from ensync.errors import EnSyncConnectionError, EnSyncError
from ensync.options import Reconnect
from ensync.registrations import Registrations
from ensync.transports.base import (
    Acknowledge,
    Defer,
    Discard,
    Identity,
    Link,
    Outcome,
    Pause,
    Publish,
    Replay,
    Request,
    Unsubscribe,
)

__all__ = ["Answer", "ClientState", "Connection", "SessionSettings"]

# A heartbeat unanswered for this long, while nothing moves, means a dead link, however long
# requests may take.
_MAX_HEARTBEAT_TIMEOUT = 10.0
# What a client is there for. The others are sent by themselves at every connect.
_ABOUT_EVENTS = (Publish, Acknowledge, Defer, Discard, Replay)


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
    """One authenticated link, for as long as it lives.

    Attributes:
        registrations: The subscriptions made on it.
        was_useful: Whether it has carried an event, an answer about one, or a heartbeat.
    """

    def __init__(self) -> None:
        self.link: Link | None = None
        self.identity: Identity | None = None
        self.error: EnSyncConnectionError | None = None
        self._lost = anyio.Event()
        self._publishes = 0
        self._perhaps_paused: set[str] = set()
        self._all_published: anyio.Event | None = None
        self.registrations = Registrations()
        self.was_useful = False

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

    def unknown_to_engine(self, message: str) -> None:
        """The engine answered on this connection that it does not know the client."""
        self.lose(
            EnSyncConnectionError(
                f"the engine does not know this client any more: {message}",
                code="session_unknown",
            )
        )

    async def wait_lost(self) -> EnSyncConnectionError:
        await self._lost.wait()
        assert self.error is not None
        return self.error

    def asked(self, request: Request) -> None:
        """A request is under way on it from now on."""
        if isinstance(request, Publish):
            self._publishes += 1
        elif isinstance(request, Pause):
            self._perhaps_paused.add(request.event_name)

    def may_be_paused(self, event_name: str) -> bool:
        """Whether the engine was told to pause a name, and may hold a new registration to it."""
        return event_name in self._perhaps_paused

    def concluded(self, request: Request) -> None:
        """It is answered, or was given up."""
        if isinstance(request, Publish):
            self._publishes -= 1
            if not self._publishes and self._all_published is not None:
                self._all_published.set()

    async def wait_published(self) -> None:
        """Waits until no publish is under way. Only one task may wait."""
        if self._publishes:
            self._all_published = anyio.Event()
            await self._all_published.wait()

    def answered(self, request: Request, outcome: Outcome) -> None:
        """Notes what an answer says about the connection that it came on."""
        if outcome.unauthenticated:
            self.unknown_to_engine(outcome.message)
        elif isinstance(request, _ABOUT_EVENTS):
            self.was_useful = True
        elif isinstance(request, Unsubscribe) and outcome.success:
            self._perhaps_paused.discard(request.event_name)

    def heartbeat_answered(self, answer: Outcome) -> None:
        """Notes that the connection has lived through an interval, and who it is known as."""
        if answer.success:
            self.was_useful = True
        else:
            self.unknown_to_engine(answer.message)

    def may_share_stream(self, event_name: str) -> bool:
        """Whether this name's events may come on one stream with those of others."""
        return self.registrations.may_share_stream(event_name)
