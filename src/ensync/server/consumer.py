"""One client's subscription to one event name, from which a door pulls events."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.lowlevel

from ensync.scopes import until_cancelled
from ensync.server.refusal import Reason, Refusal
from ensync.server.store import Lane, Lease, Store, StoredEvent, StoreFailedError

if TYPE_CHECKING:
    from ensync.server.clients import ConnectedClient

__all__ = ["Consumer", "Credit", "EndReason", "InHand"]

# So that consumers of one queue get fair shares of what has piled up.
_BATCH = 64


class EndReason(enum.Enum):
    """Why a consumer has ended."""

    CLOSED = "its stream was closed"
    UNSUBSCRIBED = "unsubscribed"
    REPLACED = "replaced by a later subscription of the same client to the same name"
    CLIENT_GONE = "the client is gone: its connection closed, or its heartbeat is overdue"
    SHUTDOWN = "the engine is stopping"


class Credit(NamedTuple):
    """How much a consumer may have in hand, unsettled."""

    events: int = 1000
    bytes: int = 64 << 20


class InHand:
    """An event that was handed to a client and is not settled.

    Attributes:
        lease: The right to settle it.
        consumer: Whose it is. None while it is only claimed in order to be settled.
        settling: How many requests are settling it at this moment.
    """

    __slots__ = ("consumer", "lease", "settling")

    def __init__(self, lease: Lease, consumer: Consumer | None) -> None:
        self.lease = lease
        self.consumer = consumer
        self.settling = 0

    @property
    def idem(self) -> str:
        """The event's id."""
        return self.lease.stored.idem


class Consumer:
    """Hands out the events of one subscription. Made by Broker.subscribe().

    Attributes:
        event_name: The name subscribed to.
        end_reason: Why it has ended; None while it lives.
    """

    def __init__(
        self,
        client: ConnectedClient,
        event_name: str,
        store: Store,
        in_hand: dict[str, InHand],
        credit: Credit,
        on_delivered: Callable[[Lease], None],
    ) -> None:
        self.event_name = event_name
        self.end_reason: EndReason | None = None
        self._client = client
        self._store = store
        self._all_in_hand = in_hand
        self._in_hand: dict[str, InHand] = {}
        self._credit = credit
        self._bytes_in_hand = 0
        self._on_delivered = on_delivered
        self._lane: Lane | None = None
        self._waiting: anyio.CancelScope | None = None

    @property
    def in_hand(self) -> int:
        """How many events were handed out and are not settled."""
        return len(self._in_hand)

    def holds(self, stored: StoredEvent) -> bool:
        """Whether an event that was taken is to be sent yet: not settled, nor given back."""
        return self.end_reason is None and stored.idem in self._in_hand

    def use(self, lane: Lane) -> None:
        """Gives the consumer the lane to take from."""
        self._lane = lane

    async def take(self) -> list[StoredEvent]:
        """Waits for events to send, which are in hand from then on.

        Only one task at a time may wait here. Cancelling loses nothing.

        Returns:
            The events, in the order to send them. None at all: the consumer has
            ended, see ``end_reason``.

        Raises:
            Refusal: The store can't read them. Calling this again tries it again.
        """
        while self.end_reason is None:
            leases = await self._next_leases()
            if leases and self.end_reason is not None:
                await self._store.release(leases)
                break
            if leases:
                return [self._hand_out(lease) for lease in leases]
        return []

    async def close(self) -> None:
        """Ends the consumer, because its stream has ended. Does nothing when it has ended."""
        await self.end(EndReason.CLOSED)

    async def end(self, reason: EndReason) -> None:
        """Ends the consumer and gives back at once all that it had in hand."""
        if self.end_reason is None:
            self.end_reason = reason
        self._client.consumer_ended(self)
        self.reconsider()
        if self._lane is not None:
            # First of all: what is given back is for the others.
            await self._lane.close()
        await self._store.release(self._let_go())

    def reconsider(self) -> None:
        """Something that decides whether events are wanted has changed."""
        if self._waiting is not None:
            self._waiting.cancel()

    def settled(self, held: InHand) -> None:
        """An event of this consumer's is not in hand any more."""
        had_credit = self._has_credit
        if self._in_hand.pop(held.idem, None) is None:
            return
        self._bytes_in_hand -= held.lease.stored.event.size
        if not had_credit:
            self.reconsider()

    @property
    def _wants_events(self) -> bool:
        return self._has_credit and not self._client.is_paused(self.event_name)

    @property
    def _has_credit(self) -> bool:
        events_left = self._credit.events - len(self._in_hand)
        return events_left > 0 and self._bytes_in_hand < self._credit.bytes

    async def _next_leases(self) -> list[Lease]:
        # A stream that is never held back would otherwise keep the loop for itself.
        await anyio.lowlevel.checkpoint()
        with anyio.CancelScope() as self._waiting:
            if self.end_reason is None and self._lane is not None and self._wants_events:
                return await self._take_from(self._lane)
            if self.end_reason is None:
                await until_cancelled()  # by reconsider()
        return []

    async def _take_from(self, lane: Lane) -> list[Lease]:
        events_left = self._credit.events - len(self._in_hand)
        bytes_left = self._credit.bytes - self._bytes_in_hand
        try:
            return await lane.take(min(_BATCH, events_left), bytes_left)
        except StoreFailedError as error:
            raise Refusal(Reason.LIMIT, str(error)) from error

    def _hand_out(self, lease: Lease) -> StoredEvent:
        held = InHand(lease, self)
        self._in_hand[held.idem] = self._all_in_hand[held.idem] = held
        self._bytes_in_hand += lease.stored.event.size
        self._on_delivered(lease)
        return lease.stored

    def _let_go(self) -> Iterable[Lease]:
        # What is just being settled is given back by whoever settles it, should that fail.
        given_back = [held for held in self._in_hand.values() if not held.settling]
        for held in given_back:
            del self._in_hand[held.idem]
            del self._all_in_hand[held.idem]
        return [held.lease for held in given_back]
