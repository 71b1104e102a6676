"""What arrives for one subscription: recognised, buffered within a bound, given out.

The reader calls :meth:`Intake.deliver`; loops call :meth:`Intake.take`. An event
leaves the buffer in the same step in which a loop gets it, so that a
cancellation at any moment finds it in one place or the other.
"""

from __future__ import annotations

import logging

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ensync.connection import Connection
from ensync.engine_pause import EnginePause
from ensync.errors import (
    EnSyncConnectionError,
    EnSyncError,
    EnSyncSubscriptionError,
    EnSyncTimeoutError,
)
from ensync.event_buffer import Arrived, EventBuffer, Held, weight
from ensync.ledger import Arrival, DeliveryLedger, EventKey, Place
from ensync.repeated_discards import RepeatedDiscards
from ensync.session import Session
from ensync.transports.base import (
    Delivery,
    Outcome,
    Pause,
    Request,
    Stream,
    Unsubscribe,
)

__all__ = ["Intake", "NotRegistered"]

logger = logging.getLogger("ensync")

# Events between two full turns of the event loop, so that a fast stream neither
# pays for one at every event nor starves other tasks.
_EVENTS_PER_CHECKPOINT = 32
_TAKEN = (Place.IN_HAND, Place.ACKNOWLEDGING, Place.DEFERRING)
# What an engine may still send after it was told to pause.
_MAX_OVERSHOOT = 10_000
_MAX_OVERSHOOT_BYTES = 256 << 20


class NotRegistered(EnSyncConnectionError):
    """The engine does not know the subscription now, as its connection was lost."""


class Intake:
    """One subscription as the session sees it."""

    def __init__(self, session: Session, event_name: str, buffer_size: int) -> None:
        self._session = session
        self._event_name = event_name
        self._buffer = EventBuffer(buffer_size)
        # The engine may go on for a while after it was told to pause.
        self._flood = buffer_size + _MAX_OVERSHOOT
        self._ledger = DeliveryLedger()
        self._taken: dict[EventKey, Arrived] = {}
        self._kept: dict[EventKey, Delivery] = {}
        self._refused_once: set[EventKey] = set()
        self._discards = RepeatedDiscards(event_name, session.tell, self._discard_refused)
        self._engine_pause = EnginePause(event_name, session.tell)
        self._stream: Stream | None = None
        self._connection: Connection | None = None
        self._held = False
        self._bytes_since_held = 0
        self._changed: anyio.Event | None = None
        self._since_checkpoint = 0
        self._refusal_logged = False
        self._stopped = False
        self.finished = False
        self.error: EnSyncError | None = None
        self.user_paused = False
        # One at a time, or answers taken in another order leave it paused unawares.
        self.pausing = anyio.Lock()
        self.received = 0
        self.duplicates = 0
        self.confirmed = 0
        self.refused = 0

    # What the session needs

    @property
    def event_name(self) -> str:
        return self._event_name

    @property
    def is_attached(self) -> bool:
        return self._stream is not None

    @property
    def stream(self) -> Stream | None:
        return self._stream

    def attached(self, connection: Connection, stream: Stream) -> None:
        self._stream, self._connection = stream, connection
        self._bytes_since_held = 0
        self._engine_pause.attached(connection)
        if self._held:
            self._hold()
        self._discards.attached(connection)
        self.notify()

    def detached(self) -> None:
        self._stream = self._connection = None
        self._kept.clear()
        self._discards.detached()
        self._engine_pause.detached()
        self.notify()

    async def registered(self, deadline: float) -> Connection:
        """The connection on which the engine knows this subscription, waiting for one.

        Raises:
            EnSyncTimeoutError: There was none by the deadline.
            EnSyncError: There will be none.
        """
        with anyio.CancelScope(deadline=deadline):
            while True:
                self.check_open()
                if self._connection is not None and not self._connection.is_lost:
                    return self._connection
                await self._wait_for_change()
        raise EnSyncTimeoutError(
            f"{self._event_name!r} is not subscribed to again in time", event_name=self._event_name
        )

    async def registered_now(self, _deadline: float) -> Connection:
        """The connection on which the engine knows this subscription, or may know it.

        Raises:
            NotRegistered: There is none.
        """
        # While it is registered again, a registration that was made before may live on.
        connection = self._connection or self._session.current
        if connection is None or connection.is_lost:
            raise NotRegistered(f"{self._event_name!r} is not subscribed to at the moment")
        return connection

    async def ask(self, request: Request) -> Outcome:
        """Asks for a pause or its end; again, when the registration was lost meanwhile."""
        deadline = anyio.current_time() + self._session.settings.request_timeout
        asked_of: Stream | None = None

        async def find(deadline: float) -> Connection:
            nonlocal asked_of
            connection = await self.registered(deadline)
            asked_of = self._stream
            return connection

        try:
            while True:
                outcome = await self._session.request(request, find, deadline)
                if outcome.success or asked_of is self._stream:
                    return outcome
        except BaseException:
            if asked_of is not None:
                self._engine_pause.unsure()
            raise

    async def restore_pause(self) -> None:
        async with self.pausing:
            if not self.user_paused:
                return
            outcome = await self.ask(Pause(self._event_name, "paused before"))
            if not self.user_paused:
                self._engine_pause.unsure()  # resumed meanwhile
        if not outcome.success:
            logger.warning("%r could not be paused again: %s", self._event_name, outcome.message)

    def retry(self) -> None:
        self._engine_pause.reconcile()
        self._discards.retry()

    def failed(self, error: EnSyncError) -> None:
        self.detached()
        self.finish(error)

    def deliver(self, delivery: Delivery) -> None:
        if self.finished or self._stopped:
            return
        self.received += 1
        key = EventKey(delivery.idem, delivery.block)
        arrival = self._ledger.arrived(key)
        if arrival is Arrival.SHOW:
            self._take_in(key, delivery, redelivered=False)
        elif arrival is Arrival.SHOW_AGAIN:
            self._take_in(key, delivery, redelivered=True)
        elif arrival is Arrival.KEEP:
            self._kept[key] = delivery
        else:
            self.duplicates += 1
            self._settle_again(arrival, key)

    def _settle_again(self, arrival: Arrival, key: EventKey) -> None:
        if arrival is Arrival.ACKNOWLEDGE_AGAIN:
            self._session.acknowledgements.add(self, key)
        elif arrival is Arrival.DISCARD_AGAIN:
            self._discards.add(key)

    def discard_unheard(self, held: Held) -> None:
        """Discards an event that is in hand, without waiting: until the engine has answered."""
        if self.is_in_hand(held):
            self.move(held.key, Place.DISCARDED)
            self._discards.add(held.key)

    def acknowledged(self, key: EventKey) -> None:
        self.confirmed += 1
        self.move(key, Place.ACKNOWLEDGED)

    def acknowledgement_refused(self, key: EventKey, reason: str) -> None:
        self.settling_refused(key)
        self._log_refusal("an acknowledgement", reason)

    def _discard_refused(self, reason: str) -> None:
        self.refused += 1
        self._log_refusal("a discard", reason)

    def _log_refusal(self, what: str, reason: str) -> None:
        if self._refusal_logged:
            return
        self._refusal_logged = True
        logger.warning(
            "the engine refused %s of %r (further ones are only counted): %s",
            what,
            self._event_name,
            reason,
        )

    # The buffer

    @property
    def buffered(self) -> int:
        return self._buffer.count

    @property
    def in_hand(self) -> int:
        return self._ledger.count(Place.IN_HAND)

    def _take_in(self, key: EventKey, delivery: Delivery, *, redelivered: bool) -> None:
        self._buffer.put(key, delivery, redelivered=redelivered)
        if self._held:
            self._bytes_since_held += weight(delivery)
        elif self._buffer.is_full:
            self._held, self._bytes_since_held = True, 0
            self._hold()
        if self._buffer.count > self._flood or self._bytes_since_held > _MAX_OVERSHOOT_BYTES:
            self._refuse_flood()
        self.notify()

    def may_share_stream(self) -> None:
        if self._held and self._stream is not None:
            self._hold()
            self._stream.release()

    def _hold(self) -> None:
        if self._stream is None or self._connection is None:
            return
        if self._connection.may_share_stream(self._event_name) or not self._stream.hold():
            self._engine_pause.want(True)

    def _release(self) -> None:
        self._held = False
        if self._stream is not None:
            self._stream.release()
        self._engine_pause.want(self.user_paused)

    def _refuse_flood(self) -> None:
        if self._connection is not None:
            self._connection.live_link.abort(
                EnSyncConnectionError(
                    f"the engine goes on delivering {self._event_name!r} although it was told "
                    "to pause",
                    code="flooded",
                )
            )

    async def take(self) -> Arrived | None:
        """The next event, which is then in hand; None when there will be none.

        Raises:
            EnSyncError: What ended the subscription.
        """
        await self._checkpoint()
        while True:
            if self.finished:
                self._raise_error()
                return None
            if self._stopped:  # what is in the buffer is given back
                return None
            arrived = self._take_nowait()
            if arrived is not None:
                return arrived
            await self._wait_for_change()

    async def _checkpoint(self) -> None:
        self._since_checkpoint += 1
        if self._since_checkpoint < _EVENTS_PER_CHECKPOINT:
            await checkpoint_if_cancelled()
            return
        self._since_checkpoint = 0
        await checkpoint()

    def _take_nowait(self) -> Arrived | None:
        if self.user_paused:
            return None
        while (arrived := self._buffer.take()) is not None:
            if self._held and self._buffer.has_room_again:
                self._release()
            key = arrived.held.key
            # It may have been settled by its id, or by who had it before, while it waited.
            if self._ledger.place(key) is Place.BUFFERED:
                self._ledger.move(key, Place.IN_HAND)
                self._taken[key] = arrived
                return arrived
        return None

    def _raise_error(self) -> None:
        if self.error is None:
            return
        # Each loop gets an exception of its own: one would collect all their tracebacks.
        error = type(self.error)(
            str(self.error),
            code=self.error.code,
            event_name=self._event_name,
            retryable=self.error.retryable,
        )
        raise error from self.error.__cause__

    async def _wait_for_change(self) -> None:
        if self._changed is None:
            self._changed = self._session.make_event()
        self._since_checkpoint = 0
        await self._changed.wait()

    def notify(self) -> None:
        """Wakes the loops that wait."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    # What becomes of an event in hand

    def place(self, key: EventKey) -> Place | None:
        return self._ledger.place(key)

    def key_of(self, idem: str) -> EventKey | None:
        return self._ledger.find(idem)

    def delivery_in_hand(self, idem: str) -> Delivery | None:
        key = self.key_of(idem)
        arrived = None if key is None else self._taken.get(key)
        return None if arrived is None else arrived.delivery

    def move(self, key: EventKey, place: Place) -> None:
        """Notes that an event is now in another place."""
        self._ledger.move(key, place)
        if place not in _TAKEN:
            self._taken.pop(key, None)
            self._refused_once.discard(key)
        kept = self._kept.pop(key, None)
        if kept is not None and place is Place.GIVEN_BACK and not self.finished:
            self._ledger.move(key, Place.BUFFERED)
            self._take_in(key, kept, redelivered=True)

    def is_in_hand(self, held: Held) -> bool:
        """Whether the event is still in the hand that it was given to."""
        taken = self._taken.get(held.key)
        return (
            taken is not None
            and taken.held is held
            and self._ledger.place(held.key) is Place.IN_HAND
        )

    def acknowledge(self, held: Held) -> None:
        """Acknowledges an event that is in hand, without waiting."""
        if self.is_in_hand(held):
            self.move(held.key, Place.ACKNOWLEDGING)
            self._session.acknowledgements.add(self, held.key)

    def put_back(self, held: Held) -> None:
        """An event in hand goes back to the buffer, for any loop to take."""
        if not self.finished and self.is_in_hand(held):
            self._put_back(held.key)

    def _put_back(self, key: EventKey) -> None:
        arrived = self._taken.pop(key)
        self._ledger.move(key, Place.BUFFERED)
        self._buffer.put(key, arrived.delivery, redelivered=True)
        self.notify()

    def settling_refused(self, key: EventKey) -> None:
        """The engine does not settle an event, and takes it to be still in hand here.

        So it is shown again. If it is refused then, too, the engine may not know it any
        more: showing it on and on would help nobody.
        """
        self.refused += 1
        if key not in self._taken or key in self._refused_once or self.finished:
            self.move(key, Place.GIVEN_BACK)
            return
        self._refused_once.add(key)
        self._put_back(key)

    @property
    def engine_must_stay_paused(self) -> bool:
        """Whether the engine is held back by a pause because the buffer is full."""
        return self._held and self._engine_pause.wanted

    def paused_by_user(self) -> None:
        self.user_paused = True
        self._engine_pause.told(True)

    def continued_by_user(self) -> None:
        self.user_paused = False
        self._engine_pause.told(False)
        self.notify()

    def continued_here(self) -> None:
        self.user_paused = False
        self.notify()

    def resume_unheard(self) -> None:
        """Goes on, without waiting for the engine: it is told as soon as it can be."""
        must_stay_paused = self.engine_must_stay_paused
        self.continued_here()
        if not must_stay_paused:
            self._engine_pause.want(False)

    # The end

    def stop(self) -> None:
        """Takes no further event; what the engine still sends stays unsettled."""
        self._stopped = True
        self.notify()

    def unsubscribe_unheard(self) -> None:
        """Tells the engine that no more is wanted, without waiting for its answer."""
        if self._connection is not None and not self._connection.is_lost:
            request = Unsubscribe(self._event_name)
            self._session.tell(self._connection, request, self._unsubscribed)

    def _unsubscribed(self, answer: Outcome | EnSyncError) -> None:
        logger.debug("unsubscribed from %r: %s", self._event_name, answer)

    def finish(self, error: EnSyncError | None = None) -> None:
        """Ends every loop: with the error, or quietly.

        What is buffered is dropped here, and is handed out again by the engine.
        """
        if self.finished:
            return
        self.finished, self.error = True, error
        self._buffer.close()
        self._session.acknowledgements.owner_finished()
        self.notify()

    def check_open(self) -> None:
        if self.finished:
            self._raise_error()
            raise EnSyncSubscriptionError(
                f"the subscription to {self._event_name!r} was left; "
                "its unsettled events were given back to the engine",
                code="subscription_closed",
                event_name=self._event_name,
            )
