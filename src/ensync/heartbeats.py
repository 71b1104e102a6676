"""Whether a link lives: heartbeats over all that carries it, and how long an answer may take."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ensync.errors import EnSyncConnectionError, EnSyncError, EnSyncTimeoutError
from ensync.transports.base import Carrier, Link, Outcome

__all__ = ["Heartbeats"]

# How often, in the time that an answer may take, it is looked whether anything moves.
_LOOKS = 8


class Heartbeats:
    """Of one link. :meth:`run` has to run as a task, as long as the link lives.

    The engine hears from every client over the carrier of its requests. The others of its
    carriers are asked only if no other client that shares them has just done it.

    Args:
        link: It is torn down when the carrier of its requests is found dead.
        interval: Seconds from one heartbeat to the next, over each carrier.
        timeout: Seconds without an answer and without a sign of life after which a carrier
            is taken for dead.
        answered: Told what the engine answers.
    """

    def __init__(
        self, link: Link, *, interval: float, timeout: float, answered: Callable[[Outcome], None]
    ) -> None:
        self._link = link
        self._interval = interval
        self._timeout = timeout
        self._answered = answered
        self._due = 0.0
        self._checks_own = False

    async def run(self) -> None:
        """Asks each carrier for a sign of life in every interval, until it is cancelled."""
        self._due = anyio.current_time() + self._interval
        async with anyio.create_task_group() as checks:
            while True:
                await anyio.sleep_until(self._next_due())
                for carrier in list(self._link.carriers):
                    if self._due_of(carrier) <= anyio.current_time():
                        self._note_begin(carrier)
                        checks.start_soon(self._check, carrier, name="ensync heartbeat")

    def _next_due(self) -> float:
        # A carrier may be added meanwhile: it is found at the latest when it may be due.
        latest = anyio.current_time() + self._interval
        return min([latest, *map(self._due_of, self._link.carriers)])

    def _due_of(self, carrier: Carrier) -> float:
        if self._is_own(carrier):
            return self._due if not self._checks_own else float("inf")
        return float("inf") if carrier.is_being_checked else carrier.checked_at + self._interval

    def _is_own(self, carrier: Carrier) -> bool:
        return carrier is self._link.carriers[0]

    def _note_begin(self, carrier: Carrier) -> None:
        now = anyio.current_time()
        carrier.checked_at = now
        if self._is_own(carrier):
            self._due = now + self._interval
            self._checks_own = True
        else:
            carrier.is_being_checked = True

    def _note_end(self, carrier: Carrier) -> None:
        if self._is_own(carrier):
            self._checks_own = False
        else:
            carrier.is_being_checked = False

    async def _check(self, carrier: Carrier) -> None:
        try:
            answer, sent = await _Beat(self._link, carrier, self._timeout).answer()
        finally:
            self._note_end(carrier)
        if isinstance(answer, Outcome):
            self._answered(answer)
        elif sent or isinstance(answer, EnSyncTimeoutError):
            self._missed(carrier, answer)

    def _missed(self, carrier: Carrier, error: EnSyncError) -> None:
        lost = EnSyncConnectionError(f"the engine missed a heartbeat: {error}", code="link_dead")
        lost.__cause__ = error
        if self._is_own(carrier):
            self._link.abort(lost)
        else:
            carrier.lose(lost)


class _Beat:
    """One heartbeat, and the time that it has left.

    A link that is only slow is not dead. What arrives is a sign of life, and so is what
    leaves as long as the heartbeat itself has not left; what was written after it is not,
    since something on the way may take that for ever.
    """

    def __init__(self, link: Link, carrier: Carrier, timeout: float) -> None:
        self._carrier = carrier
        self._timeout = timeout
        self._over = anyio.Event()
        self._answer: Outcome | EnSyncError | None = None
        begin = carrier.progress()
        self._received, self._departed = begin.received, begin.departed
        self._gone_at: int | None = None
        self._until = anyio.current_time() + timeout
        self._call = link.beat(carrier, self._answered)

    def _answered(self, answer: Outcome | EnSyncError) -> None:
        self._answer = answer
        self._over.set()

    async def answer(self) -> tuple[Outcome | EnSyncError, bool]:
        """The answer, or why there is none; and whether the engine may have heard."""
        try:
            while not self._over.is_set() and (left := self._seconds_left()) > 0:
                look_at = anyio.current_time() + min(left, self._timeout / _LOOKS)
                with anyio.CancelScope(deadline=look_at):
                    await self._over.wait()
                # A process that was held up itself has not listened: that is no silence.
                self._until += max(0.0, anyio.current_time() - look_at)
        finally:
            sent = self._call.sent
            if self._answer is None:
                self._call.cancel()
        if self._answer is None:
            return EnSyncTimeoutError("no answer from the engine in time"), sent
        return self._answer, sent

    def _seconds_left(self) -> float:
        now = anyio.current_time()
        if self._has_moved():
            self._until = now + self._timeout
        return self._until - now

    def _has_moved(self) -> bool:
        progress = self._carrier.progress()
        if self._gone_at is None and self._call.sent:
            self._gone_at = progress.departed + progress.waiting
        departed = progress.departed
        if self._gone_at is not None:
            departed = min(departed, self._gone_at)
        moved = progress.received != self._received or departed > self._departed
        self._received = progress.received
        self._departed = max(departed, self._departed)
        return moved
