"""Control calls of one subscription: asked of the engine, and noted when it has answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from ensync.connection import Connection
from ensync.errors import (
    EnSyncError,
    EnSyncSubscriptionError,
    EnSyncValidationError,
)
from ensync.event import ControlResult, DeferResult
from ensync.intake import Intake, NotRegistered
from ensync.ledger import EventKey, Place
from ensync.options import check_duration
from ensync.payload import check_idem, check_reason
from ensync.session import Session
from ensync.settling_answers import is_settled, place_of_settled
from ensync.transports.base import (
    Acknowledge,
    Continue,
    Defer,
    Delivery,
    Discard,
    Outcome,
    Pause,
    Replay,
    Request,
    Unsubscribe,
)

__all__ = ["Control", "check_delay"]

_ENDED = Outcome(True, "the registration has ended with its connection")

MIN_DELAY = 1.0
MAX_DELAY = 24 * 60 * 60.0


def check_delay(delay: object) -> float:
    """Checks a deferral's delay in seconds (PROTOCOL 3).

    Raises:
        EnSyncValidationError: It is neither 0 nor from 1 second to 24 hours.
    """
    seconds = check_duration("delay", delay, allow_zero=True)
    if seconds != 0 and not MIN_DELAY <= seconds <= MAX_DELAY:
        raise EnSyncValidationError(
            f"delay must be 0 (again at once) or from {MIN_DELAY:g} to {MAX_DELAY:g} seconds, "
            f"not {seconds:g}"
        )
    return seconds


class Control:
    """The calls behind Event and Subscription."""

    def __init__(self, session: Session, intake: Intake) -> None:
        self._session = session
        self._intake = intake
        self.deferred = 0
        self.discarded = 0

    @property
    def _name(self) -> str:
        return self._intake.event_name

    # Settling

    async def acknowledge(self, key: EventKey) -> ControlResult:
        check_idem(key.idem)
        request = Acknowledge(self._name, key.idem, key.block)
        outcome = await self._settle(key, request, Place.ACKNOWLEDGED)
        self._intake.confirmed += outcome.success or outcome.perhaps_repeated
        return self._result("acknowledged", outcome, key.idem)

    async def defer(
        self, key: EventKey | None, idem: str, delay: float, reason: str
    ) -> DeferResult:
        seconds = check_delay(delay)
        check_reason(reason)
        request = Defer(self._name, check_idem(idem), round(seconds * 1000), reason)
        outcome = await self._settle(key, request, Place.GIVEN_BACK)
        self.deferred += 1
        now = _now()
        return DeferResult(
            status="success",
            action="deferred",
            event_name=self._name,
            event_idem=idem,
            message=outcome.message,
            timestamp=now,
            delay=seconds,
            scheduled_delivery=_due(outcome.due_ms, now, seconds),
        )

    async def discard(self, key: EventKey | None, idem: str, reason: str) -> ControlResult:
        check_reason(reason)
        request = Discard(self._name, check_idem(idem), reason)
        outcome = await self._settle(key, request, Place.DISCARDED)
        self.discarded += 1
        return self._result("discarded", outcome, idem)

    async def _settle(self, key: EventKey | None, request: Request, place: Place) -> Outcome:
        self._intake.check_open()
        after: Place | None = None
        if key is not None and self._intake.place(key) is Place.IN_HAND:
            after = Place.IN_HAND
            # A copy that arrives meanwhile is not shown, or not yet.
            deferring = place is Place.GIVEN_BACK
            self._intake.move(key, Place.DEFERRING if deferring else Place.ACKNOWLEDGING)
        try:
            outcome = await self._session.request(request)
            settled = is_settled(request, outcome)
            after = place if settled else place_of_settled(outcome) or after
        finally:
            if key is not None and after is not None:
                self._intake.move(key, after)
        if not settled:
            raise self._refused(request, outcome)
        return outcome

    # Replay

    async def replay(self, idem: str) -> Delivery:
        outcome = await self._ask(Replay(self._name, check_idem(idem)))
        assert outcome.delivery is not None
        return _completed(outcome.delivery, self._intake.delivery_in_hand(idem))

    # The flow

    async def pause(self, reason: str) -> ControlResult:
        request = Pause(self._name, check_reason(reason))
        async with self._intake.pausing:
            outcome = await self._ask_registered(request)
            self._intake.paused_by_user()
        return self._result("paused", outcome)

    async def resume(self) -> ControlResult:
        async with self._intake.pausing:
            outcome = await self._resume()
        return self._result("continued", outcome)

    async def _resume(self) -> Outcome:
        self._intake.check_open()
        if self._intake.engine_must_stay_paused:
            self._intake.continued_here()
            return Outcome(True, "delivery goes on when the buffer has room")
        outcome = await self._ask_registered(Continue(self._name))
        self._intake.continued_by_user()
        return outcome

    async def unsubscribe(self) -> ControlResult:
        self._intake.check_open()
        was_registered = self._intake.is_attached
        request = Unsubscribe(self._name)
        try:
            outcome = await self._session.request(request, self._intake.registered_now)
        except NotRegistered:
            outcome = _ENDED
        if not outcome.success and not was_registered:
            outcome = _ENDED  # it was being registered again: the engine need not know of it
        return self._result("unsubscribed", self._checked(request, outcome))

    async def _ask(
        self, request: Request, find: Callable[[float], Awaitable[Connection]] | None = None
    ) -> Outcome:
        self._intake.check_open()
        return self._checked(request, await self._session.request(request, find))

    async def _ask_registered(self, request: Request) -> Outcome:
        self._intake.check_open()
        return self._checked(request, await self._intake.ask(request))

    def _checked(self, request: Request, outcome: Outcome) -> Outcome:
        if not outcome.success:
            raise self._refused(request, outcome)
        return outcome

    def _refused(self, request: Request, outcome: Outcome) -> EnSyncError:
        action = type(request).__name__.lower()
        return EnSyncSubscriptionError(
            f"the engine refused to {action} ({self._name!r}): "
            f"{outcome.message or 'no reason given'}",
            code=f"{action}_refused",
            event_name=self._name,
            event_idem=getattr(request, "idem", None),
        )

    def _result(self, action: str, outcome: Outcome, idem: str | None = None) -> ControlResult:
        return ControlResult("success", action, self._name, idem, outcome.message, _now())


def _completed(replayed: Delivery, in_hand: Delivery | None) -> Delivery:
    # Some engines replay the payload alone (PROTOCOL 3).
    if in_hand is None or replayed.sender or replayed.block:
        return replayed
    return in_hand._replace(payload=replayed.payload)


def _now() -> datetime:
    return datetime.now(UTC)


def _due(due_ms: int | None, now: datetime, seconds: float) -> datetime:
    if due_ms is not None:
        try:
            return datetime.fromtimestamp(due_ms / 1000, UTC)
        except (OverflowError, ValueError, OSError):
            # The deferral is made; only the engine's clock is beyond any calendar.
            return now + timedelta(seconds=seconds)
    return now + timedelta(seconds=seconds)
