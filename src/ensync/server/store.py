"""The Store port: what keeps the engine's events.

A store keeps events in queues, one for each app and event name, and lends
them out: whoever holds a *lease* of an event may settle it. Nothing above knows
which store is below: the doors and the broker work the same over one that keeps
events in memory, in a file, or in a cluster.

Every implementation passes the contract in ``tests/conformance/store_contract.py``.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

from ensync.scopes import until_cancelled

__all__ = [
    "EventState",
    "Found",
    "Lane",
    "Lease",
    "NewEvent",
    "QueueCounts",
    "QueueKey",
    "Settled",
    "Store",
    "StoreFailedError",
    "StoreFullError",
    "StoredEvent",
]


class QueueKey(NamedTuple):
    """One app's events of one name."""

    app_id: str
    event_name: str


class NewEvent(NamedTuple):
    """An event as it was published. ``metadata`` and ``payload_metadata`` are JSON text."""

    queue: QueueKey
    sender: str
    payload: str
    metadata: str
    payload_metadata: str | None = None
    persist: bool = True
    """Whether the event may be replayed once it is settled."""
    ttl_ms: int | None = None
    """For how long after it was stored it is handed out. None: for ever."""

    @property
    def size(self) -> int:
        """About how many bytes it takes to keep or send this event."""
        return len(self.payload) + len(self.metadata) + len(self.payload_metadata or "")


class StoredEvent(NamedTuple):
    """An event with the names the store gave it.

    ``block`` rises from event to event within a queue; it says the order of publishing.
    """

    idem: str
    block: int
    logged_at_ms: int
    event: NewEvent

    def has_expired(self, now_ms: int) -> bool:
        """Whether its time to live is over."""
        ttl_ms = self.event.ttl_ms
        return ttl_ms is not None and now_ms >= self.logged_at_ms + ttl_ms


class Lease(NamedTuple):
    """The right to settle one event.

    ``attempt`` counts how often the event has been taken, this time included.
    ``token`` is the store's own, and is passed back to it untouched.
    """

    stored: StoredEvent
    attempt: int
    token: object


class Settled(enum.Enum):
    """What became of a wish to settle an event."""

    DONE = "done"
    ALREADY = "already"  # it was settled before
    STALE = "stale"  # the lease has ended, and the event is still open


class EventState(enum.Enum):
    """What is known of a stored event."""

    OPEN = "open"  # it waits, is lent out, or is deferred
    ACKNOWLEDGED = "acknowledged"
    DISCARDED = "discarded"
    EXPIRED = "expired"  # nobody settled it within its time to live
    UNKNOWN = "unknown"  # the store can't tell


class Found(NamedTuple):
    """A stored event and its state.

    Of a settled event that is not to persist only the names are kept, so that a
    repeated acknowledgement can be told from a wrong one: its payload is empty.
    """

    stored: StoredEvent
    state: EventState


class QueueCounts(NamedTuple):
    """How many events of a queue are where. Settled ones count while they are kept."""

    queue: QueueKey
    waiting: int = 0
    leased: int = 0
    deferred: int = 0
    acknowledged: int = 0
    discarded: int = 0
    expired: int = 0


class StoreFailedError(Exception):
    """The store can't do it: nothing was stored, settled or changed.

    Its text is fit for clients: it names no files.
    """


class StoreFullError(StoreFailedError):
    """The store refuses to keep one more event. Its text says which limit was reached."""


class Lane(ABC):
    """One consumer's share in a queue. The lanes of a queue compete for its events."""

    @abstractmethod
    async def take(self, max_events: int, max_bytes: int) -> list[Lease]:
        """Takes events in block order, waiting until there is one.

        Cancelling this loses nothing: what was not returned is not lent out.

        Args:
            max_events: How many at most; at least 1.
            max_bytes: How much at most, by ``NewEvent.size``. The first event is
                returned even when it is larger.
        """

    @abstractmethod
    async def close(self) -> None:
        """Ends the demand. Leases that were taken stay valid. Closing twice is allowed."""


class Store(ABC):
    """Keeps events until they are settled, and for a while longer.

    Every method may be called from many tasks at once. What a method has returned
    from is kept as safely as the store can keep anything. Any of them may raise
    StoreFailedError.

    An event is not handed out once its time to live is over; then it counts as
    settled. One that is in hand by then may still be settled by whoever has it.

    Attributes:
        expired: How many events have expired since the store was opened.
    """

    expired: int = 0

    @abstractmethod
    async def append(self, event: NewEvent, dedupe: str | None = None) -> StoredEvent:
        """Stores an event and makes it available.

        Args:
            event: What to store.
            dedupe: Names this attempt to publish. The same text again, while it is
                remembered, stores nothing and returns the event stored before.

        Raises:
            StoreFullError: A limit was reached; nothing was stored.
        """

    @abstractmethod
    async def lane(self, queue: QueueKey) -> Lane:
        """Opens a share in a queue, which is made if need be."""

    @abstractmethod
    async def ack(self, lease: Lease) -> Settled:
        """Settles an event as done."""

    @abstractmethod
    async def discard(self, lease: Lease, reason: str) -> Settled:
        """Settles an event as unwanted."""

    @abstractmethod
    async def defer(self, lease: Lease, delay_ms: int) -> int | None:
        """Ends the lease and makes the event available again after a delay; 0: at once.

        Returns:
            When it is due, in milliseconds since the epoch, or None when the lease
            had ended before.
        """

    @abstractmethod
    async def release(self, leases: Iterable[Lease]) -> None:
        """Gives events back, at once and in block order. Leases that ended are ignored."""

    @abstractmethod
    async def claim(self, idem: str) -> Lease | None:
        """Leases one event by its id, out of turn.

        For settling an event that is not in hand: one that waits, having been given
        back, or that is deferred. Does not count as an attempt.

        Returns:
            None when there is no such event, when it is settled, or when it is lent out.
        """

    @abstractmethod
    async def find(self, idem: str) -> Found | None:
        """Looks up an event, settled or not. None: unknown, or no longer kept."""

    @abstractmethod
    async def browse(self, queue: QueueKey) -> list[Found]:
        """Everything that is kept of a queue, in block order. For looking, not for working."""

    async def count_queues(self) -> list[QueueCounts]:
        """What is where, by queue, in order of their keys. Empty: this store can't tell."""
        return []

    async def keep(self, leases: Iterable[Lease]) -> None:  # noqa: B027 - most need nothing
        """Says that these are still being worked on, where leases have a time to live."""

    async def run(self) -> None:
        """What the store does by itself, such as bringing back deferred events.

        Runs for as long as the store is in use, and is cancelled before close().
        """
        await until_cancelled()

    async def close(self) -> None:  # noqa: B027 - most need nothing
        """Lets go of files and connections. No other method is called afterwards."""
