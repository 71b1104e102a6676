"""From a delivery to an event: decrypt, parse, validate; and what to do where that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from ensync.crypto import SecretKey, open_envelope
from ensync.errors import EnSyncInvalidEventError
from ensync.event import Event, RawEvent
from ensync.options import check_choice
from ensync.payload import decode_metadata
from ensync.received import make_received
from ensync.transports.base import Delivery

if TYPE_CHECKING:
    from ensync.event_buffer import Held
    from ensync.subscription import Subscription

__all__ = ["EventReader", "InvalidEventPolicy", "Verdict", "judge"]

T = TypeVar("T")

Verdict: TypeAlias = Literal["raise", "discard", "defer"]
InvalidEventPolicy: TypeAlias = (
    Literal["raise", "discard"]
    | Callable[[EnSyncInvalidEventError], Verdict]
    | Callable[[EnSyncInvalidEventError], Awaitable[Verdict]]
)


class EventReader(Generic[T]):
    """Reads the events of one subscription."""

    def __init__(
        self, secret_key: SecretKey, decode_payload: Callable[[bytes], T], recipient: str
    ) -> None:
        self._secret_key = secret_key
        self._decode_payload = decode_payload
        self._recipient = recipient

    def read(
        self,
        delivery: Delivery,
        subscription: Subscription[T],
        *,
        redelivered: bool,
        held: Held,
    ) -> Event[T]:
        """Decrypts and parses one event.

        Args:
            delivery: The event as it came.
            subscription: What it came by.
            redelivered: Whether it was seen before.
            held: What it is given away as.

        Raises:
            EnSyncInvalidEventError: It can't be decrypted, or is not what it should be.
                It names the event and holds it as it arrived.
        """
        try:
            payload = self._decode_payload(open_envelope(delivery.payload, self._secret_key))
            metadata = decode_metadata(delivery.metadata)
        except EnSyncInvalidEventError as error:
            raise _describe(error, delivery, subscription) from error
        event: Event[Any] = make_received(
            Event,
            delivery.idem,
            delivery.block,
            delivery.event_name,
            payload,
            metadata,
            delivery.sender,
            self._recipient,
            _timestamp(delivery.logged_at_ms),
            redelivered,
            subscription,
            held,
        )
        return event


def _describe(
    error: EnSyncInvalidEventError, delivery: Delivery, subscription: Subscription[Any]
) -> EnSyncInvalidEventError:
    raw = make_received(
        RawEvent,
        delivery.idem,
        delivery.block,
        delivery.event_name,
        delivery.payload,
        delivery.metadata,
        delivery.sender,
        subscription,
    )
    return EnSyncInvalidEventError(
        f"event {delivery.idem!r} of {delivery.event_name!r}: {error}",
        event=raw,
        code=error.code,
        event_name=delivery.event_name,
        event_idem=delivery.idem,
    )


def _timestamp(milliseconds: int | None) -> datetime | None:
    if milliseconds is None:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        # A time that no calendar has is no reason to withhold the event.
        return None


async def judge(policy: InvalidEventPolicy, error: EnSyncInvalidEventError) -> Verdict:
    """What a policy says of an invalid event.

    Raises:
        EnSyncValidationError: A function answered something else than a verdict.
    """
    if isinstance(policy, str):
        return "discard" if policy == "discard" else "raise"
    answer = policy(error)
    verdict = await answer if isinstance(answer, Awaitable) else answer
    check_choice("the answer of on_invalid", verdict, ("raise", "discard", "defer"))
    return verdict
