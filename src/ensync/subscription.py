"""Subscription, and the settling of events in scopes and by calls."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, final

from ensync.control import MIN_DELAY, Control, check_delay
from ensync.errors import (
    EnSyncError,
    EnSyncInvalidEventError,
    EnSyncSubscriptionError,
    EnSyncValidationError,
)
from ensync.event import ControlResult, DeferResult, Event, OnError, RawEvent, Receipt
from ensync.event_buffer import Arrived, Held
from ensync.handling import Handler, HandlerRun, check_handler
from ensync.intake import Intake
from ensync.ledger import EventKey
from ensync.loops import Cursor, EventsInLoops
from ensync.options import check_choice, check_count
from ensync.reading import EventReader, InvalidEventPolicy, judge
from ensync.received import Received
from ensync.session import Session
from ensync.statistics import SubscriptionStatistics

__all__ = [
    "Publisher",
    "Subscription",
    "open_subscription",
]

T = TypeVar("T")

logger = logging.getLogger("ensync")

AnyEvent: TypeAlias = Event[Any] | RawEvent


class Publisher(Protocol):
    """The client, as a subscription needs it to reply."""

    async def publish(
        self,
        event_name: str,
        recipients: list[str],
        payload: object,
        metadata: Mapping[str, object] | None = None,
    ) -> Receipt:
        """Publishes one event."""
        ...


@final
class Subscription(Generic[T], metaclass=Received):
    """The events of one name, for as long as its block is open.

    Iterating gives events. With ``auto_ack`` an event is acknowledged when its loop
    asks for the next one, or when the block is left without an exception. Each
    ``async for`` is a cursor of its own: several tasks may iterate one subscription,
    and each event goes to one of them.
    """

    def __init__(
        self,
        session: Session,
        intake: Intake,
        reader: EventReader[T],
        publisher: Publisher,
        *,
        auto_ack: bool,
        on_invalid: InvalidEventPolicy,
    ) -> None:
        self._session = session
        self._intake = intake
        self._control = Control(session, intake)
        self._reader = reader
        self._publisher = publisher
        self._auto_ack = auto_ack
        self._on_invalid: InvalidEventPolicy = on_invalid
        self._unsubscribed = False
        self._in_loops = EventsInLoops(intake, session.current_task)
        self._invalid = 0
        self._failed_handlers = 0

    @property
    def event_name(self) -> str:
        """The name subscribed to."""
        return self._intake.event_name

    @property
    def is_paused(self) -> bool:
        """Whether :meth:`pause` is in effect."""
        return self._intake.user_paused

    def __repr__(self) -> str:
        state = "closed" if self._intake.finished else "paused" if self.is_paused else "open"
        return (
            f"<Subscription {self.event_name!r} {state} "
            f"buffered={self._intake.buffered} in_hand={self._intake.in_hand}>"
        )

    def statistics(self) -> SubscriptionStatistics:
        """Counts, as they are now."""
        intake, control = self._intake, self._control
        return SubscriptionStatistics(
            received=intake.received,
            duplicates=intake.duplicates,
            invalid=self._invalid,
            buffered=intake.buffered,
            in_hand=intake.in_hand,
            unconfirmed=self._session.acknowledgements.unconfirmed_of(intake),
            acknowledged=intake.confirmed,
            deferred=control.deferred,
            discarded=control.discarded,
            refused=intake.refused,
            failed_handlers=self._failed_handlers,
        )

    # Iterating

    def __aiter__(self) -> AsyncIterator[Event[T]]:
        return Cursor(self._advance, self._in_loops)

    async def _advance(self, previous: Held | None) -> Event[T]:
        if previous is not None:
            self._in_loops.asked_for_next(previous)
        event = await self._take()
        if event is None:
            raise StopAsyncIteration
        if self._auto_ack:
            self._in_loops.taken(_held(event))
        return event

    async def _take(self) -> Event[T] | None:
        if self._session.acknowledgements.crowded(self._intake):
            await self._session.acknowledgements.wait_for_room(self._intake)
        while True:
            arrived = await self._intake.take()
            if arrived is None:
                return None
            delivery, redelivered, held = arrived
            try:
                return self._reader.read(delivery, self, redelivered=redelivered, held=held)
            except EnSyncInvalidEventError as error:
                invalid = error
            await self._judge(arrived, invalid)

    async def _judge(self, arrived: Arrived, error: EnSyncInvalidEventError) -> None:
        self._invalid += 1
        idem = arrived.delivery.idem
        try:
            verdict = await judge(self._on_invalid, error)
            if verdict == "discard":
                await self._control.discard(arrived.held.key, idem, "invalid event")
            elif verdict == "defer":
                await self._control.defer(arrived.held.key, idem, MIN_DELAY, "invalid event")
        except BaseException:
            self._intake.put_back(arrived.held)
            raise
        if verdict == "raise":
            raise error
        logger.warning("invalid event (%s): %s", verdict, error)

    # Settling

    async def ack(self, event: AnyEvent | str, block: int | None = None) -> ControlResult:
        """Acknowledges an event: it will not be handed out again.

        Args:
            event: The event, or its idem.
            block: With an idem, the event's block.

        Raises:
            EnSyncValidationError: An idem without its block.
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        return await self._control.acknowledge(_key_to_acknowledge(event, block))

    async def defer(self, event: AnyEvent | str, *, delay: float, reason: str = "") -> DeferResult:
        """Asks for an event again after ``delay`` seconds.

        Args:
            event: The event, or its idem.
            delay: 0 (again at once), or from 1 second to 24 hours.
            reason: Kept by the engine; no control characters, no ``;``.

        Raises:
            EnSyncValidationError: The delay or the reason is not acceptable.
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        key = self._known_key(event)
        return await self._control.defer(key, _idem(event), delay, reason)

    async def discard(self, event: AnyEvent | str, *, reason: str = "") -> ControlResult:
        """Rejects an event for good: it is not handed out again.

        Raises:
            EnSyncValidationError: The reason is not acceptable.
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        key = self._known_key(event)
        return await self._control.discard(key, _idem(event), reason)

    def _known_key(self, event: AnyEvent | str) -> EventKey | None:
        return self._intake.key_of(event) if isinstance(event, str) else _key(_check_event(event))

    def settle(
        self, event: Event[T], *, on_error: OnError = "defer", delay: float = 5.0
    ) -> AbstractAsyncContextManager[Event[T]]:
        """A scope that settles an event by how it ends. See :meth:`Event.settle`."""
        check_choice("on_error", on_error, ("defer", "discard"))
        return self._settle(event, on_error, check_delay(delay))

    @asynccontextmanager
    async def _settle(
        self, event: Event[T], on_error: OnError, delay: float
    ) -> AsyncIterator[Event[T]]:
        try:
            yield event
        except Exception:
            await self._settle_failed(event, on_error, delay)
            raise
        except BaseException:
            self._give_back(event)
            raise
        if _held(event).is_replayed:
            await self.ack(event)
        else:
            self._done(event)

    def _done(self, event: Event[T]) -> None:
        held = _held(event)
        self._in_loops.settled(held)
        self._intake.acknowledge(held)

    def _give_back(self, event: Event[T]) -> None:
        held = _held(event)
        self._in_loops.settled(held)
        self._intake.put_back(held)

    async def _settle_failed(self, event: Event[T], on_error: OnError, delay: float) -> None:
        """Defers or discards after an exception, which is the one to go on."""
        held = _held(event)
        if not held.is_replayed and not self._intake.is_in_hand(held):
            return
        try:
            if on_error == "defer":
                await self.defer(event, delay=delay, reason="processing failed")
            else:
                await self.discard(event, reason="processing failed")
        except EnSyncError as failure:
            logger.warning("event %r could not be settled (%s): %s", event.idem, on_error, failure)
            refused = isinstance(failure, EnSyncSubscriptionError) and not self._intake.finished
            if refused and self._intake.is_in_hand(held):
                self._intake.settling_refused(held.key)
        finally:
            # Without an answer it may be discarded: then it must not be shown again.
            if on_error == "discard":
                self._intake.discard_unheard(held)
            self._give_back(event)

    async def for_each(
        self,
        handler: Handler[T],
        *,
        concurrency: int = 1,
        on_error: OnError = "defer",
        delay: float = 5.0,
    ) -> None:
        """Runs a handler over the events until the subscription ends or this is cancelled.

        An event is acknowledged when its handler returns. When it raises, the
        exception is logged and counted, and the event is deferred or discarded. A
        handler that is cancelled settles nothing.

        Args:
            handler: Called with each event.
            concurrency: How many handlers may run at a time.
            on_error: ``"defer"`` or ``"discard"``.
            delay: Seconds of a deferral: 0, or from 1 second to 24 hours.

        Raises:
            EnSyncValidationError: An argument is not acceptable.
            EnSyncInvalidEventError: An event can't be read, and ``on_invalid`` says to raise.
            EnSyncConnectionError: The session gave up.
        """
        check_count("concurrency", concurrency)
        check_choice("on_error", on_error, ("defer", "discard"))
        check_handler(handler)
        run = HandlerRun(
            handler,
            concurrency=concurrency,
            take=self._take,
            succeeded=self._done,
            failed=self._handler_failed(on_error, check_delay(delay)),
            cancelled=self._give_back,
        )
        await run.until_the_end()

    def _handler_failed(
        self, on_error: OnError, delay: float
    ) -> Callable[[Event[T], Exception], Awaitable[None]]:
        async def failed(event: Event[T], error: Exception) -> None:
            self._failed_handlers += 1
            logger.error("a handler failed on event %r (%s)", event.idem, on_error, exc_info=error)
            await self._settle_failed(event, on_error, delay)

        return failed

    # Control

    async def reply(
        self, event: Event[T], payload: object, metadata: Mapping[str, object] | None = None
    ) -> Receipt:
        """Publishes back to an event's sender. See :meth:`Event.reply`."""
        if not event.sender:
            raise EnSyncValidationError(f"event {event.idem!r} names no sender to reply to")
        return await self._publisher.publish(event.event_name, [event.sender], payload, metadata)

    async def replay(self, idem: str) -> Event[T]:
        """Fetches a stored event once more, settled or not, for the caller alone.

        Raises:
            EnSyncSubscriptionError: The engine refuses, for example because it no longer
                keeps the event.
            EnSyncInvalidEventError: What it sent can't be decrypted or parsed.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        delivery = await self._control.replay(idem)
        # In nobody's hand by that: only what the user says of it settles it.
        held = Held(EventKey(delivery.idem, delivery.block), is_replayed=True)
        return self._reader.read(delivery, self, redelivered=True, held=held)

    async def pause(self, *, reason: str = "") -> ControlResult:
        """Stops the flow of events to this subscription; other clients go on.

        Loops get no event until :meth:`resume`. The state is restored after a lost link.

        Raises:
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        return await self._control.pause(reason)

    async def resume(self) -> ControlResult:
        """Lets events flow again.

        Raises:
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        return await self._control.resume()

    continue_subscription = resume

    @asynccontextmanager
    async def paused(self, reason: str = "") -> AsyncIterator[None]:
        """A scope during which no events flow."""
        await self.pause(reason=reason)
        try:
            yield
            if not self._intake.finished:
                await self.resume()
        except BaseException:
            # Whatever ends the scope goes on at once; events flow as soon as may be.
            self._intake.resume_unheard()
            raise

    async def unsubscribe(self) -> ControlResult:
        """Ends the subscription before its block ends: every loop over it finishes.

        Raises:
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine has not answered in time. It may have done it,
                so the subscription ends all the same.
        """
        try:
            result = await self._control.unsubscribe()
        except EnSyncSubscriptionError:
            raise  # refused: it goes on
        except BaseException:
            # The engine may have done it, and need not say so by ending a stream: loops would
            # wait for ever.
            self._intake.unsubscribe_unheard()
            self._end_unsubscribed()
            raise
        self._end_unsubscribed()
        return result

    def _end_unsubscribed(self) -> None:
        self._unsubscribed = True
        self._end()

    # Leaving

    async def leave(self, *, succeeded: bool) -> None:
        """Settles what is done, gives back what is not. For :func:`open_subscription`."""
        self._intake.stop()
        self._in_loops.block_left(succeeded=succeeded)
        try:
            with self._session.draining():
                await self._session.acknowledgements.wait_until_confirmed(self._intake)
                await self._tell_engine()
        finally:
            # No scope shields from asyncio's own cancellation.
            self._let_go()

    async def _tell_engine(self) -> None:
        if self._unsubscribed or self._intake.finished:
            return
        try:
            await self._control.unsubscribe()
        except EnSyncError as error:
            # The end of the stream says the same.
            logger.debug("unsubscribing from %r: %s", self.event_name, error)
        self._unsubscribed = True

    def _let_go(self) -> None:
        """Ends all of it without waiting any more."""
        unconfirmed = self._session.acknowledgements.abandon(self._intake)
        if unconfirmed:
            logger.warning(
                "left %r with %d acknowledgements unconfirmed: those events may come again",
                self.event_name,
                unconfirmed,
            )
        if not self._unsubscribed:
            self._intake.unsubscribe_unheard()
        self._end()

    def _end(self) -> None:
        stream = self._intake.stream
        self._intake.finish()
        self._session.subscriptions.remove(self._intake, stream)


def _key_to_acknowledge(event: AnyEvent | str, block: int | None) -> EventKey:
    if not isinstance(event, str):
        return _key(_check_event(event))
    if block is None:
        raise EnSyncValidationError("ack() of an idem needs its block: ack(idem, block)")
    return EventKey(event, check_count("block", block, minimum=-(1 << 63)))


def _key(event: AnyEvent) -> EventKey:
    return EventKey(event.idem, event.block)


def _held(event: Event[Any]) -> Held:
    return event._held  # pyright: ignore[reportPrivateUsage]


def _idem(event: AnyEvent | str) -> str:
    return event if isinstance(event, str) else event.idem


def _check_event(event: AnyEvent) -> AnyEvent:
    if not isinstance(event, Event | RawEvent):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EnSyncValidationError(
            f"an event, or its idem as a str, is needed, not {type(event).__name__}"
        )
    return event


@asynccontextmanager
async def open_subscription(subscription: Subscription[T]) -> AsyncIterator[Subscription[T]]:
    """The scope of a subscription whose registration is done."""
    try:
        yield subscription
    except BaseException:
        await subscription.leave(succeeded=False)
        raise
    await subscription.leave(succeeded=True)
