"""Events, and the small records that the engine's answers become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, final

from ensync.errors import EnSyncSubscriptionError
from ensync.received import Received, make_received

if TYPE_CHECKING:
    from ensync.errors import EnSyncError
    from ensync.event_buffer import Held
    from ensync.subscription import Subscription

__all__ = [
    "ControlResult",
    "DeferResult",
    "Event",
    "OutgoingEvent",
    "PublishOutcome",
    "RawEvent",
    "Receipt",
]

T = TypeVar("T")

OnError = Literal["defer", "discard"]


@final
class Event(Generic[T], metaclass=Received):
    """One event, decrypted. Frozen.

    Attributes:
        idem: The engine's id of the event.
        block: With ``idem``, names the stored event.
        event_name: The name it was published under.
        payload: The decrypted JSON value, or what ``payload_type`` made of it.
        metadata: What the publisher attached, in the clear.
        sender: The publisher's app id.
        recipient: The app id that it was published to: the client's own.
        timestamp: When the engine stored it (aware), or None where the transport
            does not say.
        redelivered: Whether this subscription has seen the event before.
    """

    __slots__ = (
        "_held",
        "_subscription",
        "block",
        "event_name",
        "idem",
        "metadata",
        "payload",
        "recipient",
        "redelivered",
        "sender",
        "timestamp",
    )

    idem: str
    block: int
    event_name: str
    payload: T
    metadata: dict[str, Any]
    sender: str
    recipient: str
    timestamp: datetime | None
    redelivered: bool
    _subscription: Subscription[T]
    _held: Held

    def __init__(  # noqa: PLR0917 - made in one place, on the hot path
        self,
        idem: str,
        block: int,
        event_name: str,
        payload: T,
        metadata: dict[str, Any],
        sender: str,
        recipient: str,
        timestamp: datetime | None,
        redelivered: bool,
        subscription: Subscription[T],
        held: Held,
    ) -> None:
        fill = object.__setattr__
        fill(self, "idem", idem)
        fill(self, "block", block)
        fill(self, "event_name", event_name)
        fill(self, "payload", payload)
        fill(self, "metadata", metadata)
        fill(self, "sender", sender)
        fill(self, "recipient", recipient)
        fill(self, "timestamp", timestamp)
        fill(self, "redelivered", redelivered)
        fill(self, "_subscription", subscription)
        fill(self, "_held", held)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an event is frozen: {name} can't be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an event is frozen: {name} can't be deleted")

    def __repr__(self) -> str:
        return f"<Event {self.event_name!r} idem={self.idem!r} block={self.block}>"

    async def ack(self) -> ControlResult:
        """Acknowledges this event: it will not be handed out again.

        Raises:
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        return await self._subscription.ack(self)

    async def defer(self, *, delay: float, reason: str = "") -> DeferResult:
        """Asks for this event again after ``delay`` seconds.

        Args:
            delay: 0 (again at once), or from 1 second to 24 hours.
            reason: Kept by the engine; no control characters, no ``;``.

        Raises:
            EnSyncValidationError: The delay or the reason is not acceptable.
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        return await self._subscription.defer(self, delay=delay, reason=reason)

    async def discard(self, *, reason: str = "") -> ControlResult:
        """Rejects this event for good: it is not handed out again.

        Raises:
            EnSyncValidationError: The reason is not acceptable.
            EnSyncSubscriptionError: The engine refuses, or the subscription was left.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        return await self._subscription.discard(self, reason=reason)

    async def reply(self, payload: object, metadata: Mapping[str, object] | None = None) -> Receipt:
        """Publishes back to this event's sender, under the same event name.

        Raises:
            EnSyncPublishError: It was not accepted.
            EnSyncValidationError: The payload or the metadata can't be sent, or this
                event names no sender.
        """
        return await self._subscription.reply(self, payload, metadata)

    def settle(
        self, *, on_error: OnError = "defer", delay: float = 5.0
    ) -> AbstractAsyncContextManager[Event[T]]:
        """A scope that acknowledges this event on success.

        On an exception the event is deferred by ``delay`` seconds, or discarded, and
        the exception goes on. Cancellation does neither.
        """
        return self._subscription.settle(self, on_error=on_error, delay=delay)


@final
class RawEvent(metaclass=Received):
    """An event that can't be decrypted or parsed, as it arrived. Frozen.

    Attributes:
        idem: The engine's id of the event.
        block: With ``idem``, names the stored event.
        event_name: The name it was published under.
        payload: The envelope's text, still encrypted.
        metadata: The metadata's text, unparsed.
        sender: What the engine says of the publisher.
    """

    __slots__ = (
        "_subscription",
        "block",
        "event_name",
        "idem",
        "metadata",
        "payload",
        "sender",
    )

    idem: str
    block: int
    event_name: str
    payload: str
    metadata: str
    sender: str
    _subscription: Subscription[Any] | None

    def __init__(  # noqa: PLR0917 - made in one place, on the hot path
        self,
        idem: str,
        block: int,
        event_name: str,
        payload: str,
        metadata: str,
        sender: str,
        subscription: Subscription[Any] | None,
    ) -> None:
        fill = object.__setattr__
        fill(self, "idem", idem)
        fill(self, "block", block)
        fill(self, "event_name", event_name)
        fill(self, "payload", payload)
        fill(self, "metadata", metadata)
        fill(self, "sender", sender)
        fill(self, "_subscription", subscription)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an event is frozen: {name} can't be set")

    def __repr__(self) -> str:
        return f"<RawEvent {self.event_name!r} idem={self.idem!r} block={self.block}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # An error that carries this event can be pickled; the subscription stays at home.
        fields = (self.idem, self.block, self.event_name, self.payload, self.metadata, self.sender)
        return (make_received, (RawEvent, *fields, None))

    def _live_subscription(self) -> Subscription[Any]:
        if self._subscription is None:
            raise EnSyncSubscriptionError(
                "this event is a copy without its subscription: settle the original",
                event_name=self.event_name,
                event_idem=self.idem,
            )
        return self._subscription

    async def ack(self) -> ControlResult:
        """Acknowledges this event although it can't be read. See :meth:`Event.ack`."""
        return await self._live_subscription().ack(self)

    async def defer(self, *, delay: float, reason: str = "") -> DeferResult:
        """Asks for this event again later. See :meth:`Event.defer`."""
        return await self._live_subscription().defer(self, delay=delay, reason=reason)

    async def discard(self, *, reason: str = "") -> ControlResult:
        """Rejects this event for good. See :meth:`Event.discard`."""
        return await self._live_subscription().discard(self, reason=reason)


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """One event to be published by :meth:`EnSyncClient.publish_many`.

    Attributes:
        event_name: The name to publish under.
        recipients: App ids.
        payload: Any JSON value, a dataclass or a pydantic model.
        metadata: Sent along in the clear.
        encryption: ``"sealed"`` or ``"hybrid"``.
        key: Anything of yours, to recognise the outcome by. It is not sent.
    """

    event_name: str
    recipients: tuple[str, ...] | list[str]
    payload: object
    metadata: Mapping[str, object] | None = None
    encryption: Literal["sealed", "hybrid"] = "sealed"
    key: object = field(default=None, compare=False)


@final
class Receipt(metaclass=Received):
    """The engine's word that it has stored an event for every recipient.

    Attributes:
        event_name: The name it was published under.
        event_ids: Recipient (app id) to event id, in the order given.
    """

    __slots__ = ("event_ids", "event_name")

    event_name: str
    event_ids: Mapping[str, str]

    def __init__(self, event_name: str, event_ids: Mapping[str, str]) -> None:
        object.__setattr__(self, "event_name", event_name)
        object.__setattr__(self, "event_ids", event_ids)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a receipt is frozen: {name} can't be set")

    @property
    def event_id(self) -> str:
        """The id, where there was one recipient.

        Raises:
            ValueError: There were several; see ``event_ids``.
        """
        if len(self.event_ids) != 1:
            raise ValueError(
                f"this receipt has {len(self.event_ids)} event ids, one per recipient: "
                "use event_ids"
            )
        return next(iter(self.event_ids.values()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.event_ids.values())

    def __str__(self) -> str:
        return ",".join(self.event_ids.values())

    def __repr__(self) -> str:
        return f"<Receipt {self.event_name!r} {str(self)!r}>"


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """What became of one event of :meth:`EnSyncClient.publish_many`.

    Attributes:
        event: The event as it was given.
        receipt: The receipt, when every recipient's copy was accepted; else None.
        error: Why not, else None: an EnSyncPublishError tells accepted, rejected
            and unknown recipients apart, an EnSyncValidationError says that the
            event can't be sent as it is.
    """

    event: OutgoingEvent
    receipt: Receipt | None
    error: EnSyncError | None

    def unwrap(self) -> Receipt:
        """The receipt; or raises the error."""
        if self.receipt is None:
            assert self.error is not None
            raise self.error
        return self.receipt


@dataclass(frozen=True, slots=True)
class ControlResult:
    """What the engine said to a control call.

    Attributes:
        status: ``"success"``; a refusal is raised instead.
        action: What was done: ``"acknowledged"``, ``"discarded"``, ``"deferred"``,
            ``"paused"``, ``"continued"`` or ``"unsubscribed"``.
        event_name: The subscription's event name.
        event_idem: The event concerned, where there is one.
        message: The engine's own words, possibly empty.
        timestamp: When the answer arrived (aware).
    """

    status: str
    action: str
    event_name: str
    event_idem: str | None
    message: str
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class DeferResult(ControlResult):
    """What the engine said to a deferral.

    Attributes:
        delay: Seconds, as asked for.
        scheduled_delivery: When the event is due again (aware), as the engine says.
    """

    delay: float
    scheduled_delivery: datetime
