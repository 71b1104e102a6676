"""Where tests reach into the doors, to make an engine misbehave on purpose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from ensync.scopes import until_cancelled
from ensync.server.store import StoredEvent

__all__ = ["DoorCall", "DoorConnection", "DoorFault", "DoorHooks"]


class DoorConnection(ABC):
    """A client's connection to a door."""

    @abstractmethod
    def abort(self) -> None:
        """Cuts the connection at once, as a network does. Nothing more is written."""

    @abstractmethod
    def go_away(self, *, error: bool = False) -> None:
        """Says that no new call will be served here; those under way go on.

        HTTP/2 has GOAWAY for this; a WebSocket is closed with code 1001.

        Args:
            error: Says instead that something went wrong, and ends the connection:
                GOAWAY with INTERNAL_ERROR, or code 1011.
        """

    @abstractmethod
    def freeze(self) -> None:
        """Becomes a black hole: reads nothing and writes nothing until the connection ends."""


class DoorCall(NamedTuple):
    """One request to a door.

    ``method`` is what it is for, whatever the protocol calls it: connect,
    heartbeat, publish, subscribe, unsubscribe, acknowledge, rollback, defer,
    discard, replay, pause or continue. ``door`` is ``"grpc"`` or ``"websocket"``.
    """

    door: str
    method: str
    client_id: str
    event_name: str
    connection: DoorConnection


class DoorFault(Exception):
    """Raised by a hook: the call fails here and now.

    Attributes:
        status: Name of the gRPC status to end with, ``"OK"`` included. A WebSocket has
            only one way to fail.
        reset: Whether the HTTP/2 stream is reset, without any status.
        silent: Whether nothing is said at all: this request never gets an answer, and
            other requests go on.
    """

    def __init__(
        self,
        text: str,
        *,
        status: str = "UNAVAILABLE",
        reset: bool = False,
        silent: bool = False,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.reset = reset
        self.silent = silent


class DoorHooks:
    """Called by the doors around all they do; these do nothing.

    A method may wait, or raise DoorFault or Refusal, or do something to the connection.
    """

    async def before_handling(self, call: DoorCall) -> None:
        """A request was read; the broker has not seen it."""

    async def before_reply(self, call: DoorCall) -> None:
        """The broker has done what was asked; the reply has not been sent.

        For a subscription the reply is that it is registered.
        """

    async def before_delivery(self, call: DoorCall, stored: StoredEvent) -> int:
        """An event is about to be sent for a subscription.

        Returns:
            How many times to send it: 0 loses it on the way, 2 duplicates it.
        """
        return 1

    async def during_stream(self, call: DoorCall) -> None:
        """Runs beside each gRPC stream of deliveries, and is cancelled when it ends.

        Raising DoorFault ends the stream so.
        """
        await until_cancelled()
