"""A subscription, as those see it who register it and bring it events."""

from __future__ import annotations

from typing import Protocol

from ensync.acknowledgements import Acknowledger
from ensync.connection import Connection
from ensync.errors import EnSyncError
from ensync.transports.base import Delivery, Stream

__all__ = ["Subscriber"]


class Subscriber(Acknowledger, Protocol):
    """What has a name, wants its events, and has a stream while it is registered."""

    def deliver(self, delivery: Delivery) -> None:
        """Takes one event. Called by the reader: returns at once."""

    @property
    def is_attached(self) -> bool:
        """Whether it has a stream."""
        ...

    def attached(self, connection: Connection, stream: Stream) -> None:
        """The engine has registered the subscription on this connection."""

    async def restore_pause(self) -> None:
        """Pauses a new registration if the subscription is paused."""

    def may_share_stream(self) -> None:
        """From now on, events of other names may come on this subscription's stream."""

    def detached(self) -> None:
        """The stream is gone; another will come, or failed() will be called."""

    def retry(self) -> None:
        """Sends again what had no answer. Called now and then."""

    def failed(self, error: EnSyncError) -> None:
        """No stream will come any more."""
