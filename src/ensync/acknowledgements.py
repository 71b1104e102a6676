"""Acknowledgements on their way: pipelined, bounded, sent again after a lost link."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import anyio

from ensync.errors import EnSyncError
from ensync.ledger import EventKey
from ensync.transports.base import Acknowledge, Call, Link, Outcome

__all__ = ["AcknowledgementPipeline", "Acknowledger", "means_done"]

# Requests on the wire at a time: more do not go faster.
MAX_IN_FLIGHT = 128
# Loops wait when this many events are done with and not yet confirmed.
MAX_UNCONFIRMED = 1_024

_SETTLED_WORDS = ("already", "duplicate", "acknowledged")


def means_done(outcome: Outcome) -> bool:
    """Whether an answer to an acknowledgement says that the event is settled (PROTOCOL 3)."""
    if outcome.success:
        return True
    text = outcome.message.lower()
    return any(word in text for word in _SETTLED_WORDS)


class Acknowledger(Protocol):
    """A subscription, as seen from here."""

    @property
    def event_name(self) -> str: ...

    def acknowledged(self, key: EventKey) -> None:
        """The engine has confirmed."""

    def acknowledgement_refused(self, key: EventKey, reason: str) -> None:
        """The engine has refused; it will hand the event out again."""


class _Pending(NamedTuple):
    owner: Acknowledger
    key: EventKey


class _Sent(NamedTuple):
    pending: _Pending
    call: Call
    deadline: float


class AcknowledgementPipeline:
    """Owned by a session. Nothing here awaits but the methods that say so."""

    def __init__(self, *, timeout: float, session_unknown: Callable[[str], None]) -> None:
        self._timeout = timeout
        self._session_unknown = session_unknown
        self._link: Link | None = None
        self._waiting: deque[_Pending] = deque()
        self._sent: dict[_Pending, _Sent] = {}
        self._unconfirmed_of: Counter[Acknowledger] = Counter()
        self._changed: anyio.Event | None = None
        self._pumping = False
        self._closed = False

    @property
    def unconfirmed(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def crowded(self) -> bool:
        return self.unconfirmed >= MAX_UNCONFIRMED

    def add(self, owner: Acknowledger, key: EventKey) -> None:
        """Acknowledges one event, now or as soon as there is a link."""
        self._waiting.append(_Pending(owner, key))
        self._unconfirmed_of[owner] += 1
        self._pump()

    def attach(self, link: Link) -> None:
        """Sends what waits over a new link."""
        self._link = link
        self._pump()

    def detach(self) -> None:
        """The link is gone: what it did not answer waits for the next one."""
        self._link = None
        unanswered = list(self._sent.values())
        self._sent.clear()
        for sent in unanswered:
            sent.call.cancel()
        self._waiting.extendleft(reversed([sent.pending for sent in unanswered]))

    def close(self) -> None:
        """There will be no further link, so nobody waits any more."""
        self._closed = True
        self.detach()
        self._notify()

    def expire(self, now: float) -> bool:
        """Sends again what has had no answer in time.

        Returns:
            Whether there was any: the engine does not answer as it should.
        """
        late = [sent for sent in self._sent.values() if sent.deadline <= now]
        self._cancel(late)
        self._waiting.extend(sent.pending for sent in late)
        self._pump()
        return bool(late)

    def _cancel(self, given_up: list[_Sent]) -> None:
        # Cancelling one may end the link, which answers all that are still sent.
        for sent in given_up:
            del self._sent[sent.pending]
        for sent in given_up:
            sent.call.cancel()

    def abandon(self, owner: Acknowledger) -> int:
        """Forgets a subscription's acknowledgements; returns how many were unconfirmed."""
        self._waiting = deque(pending for pending in self._waiting if pending.owner is not owner)
        self._cancel([sent for sent in self._sent.values() if sent.pending.owner is owner])
        unconfirmed = self._unconfirmed_of.pop(owner, 0)
        self._pump()
        self._notify()
        return unconfirmed

    def unconfirmed_of(self, owner: Acknowledger) -> int:
        return self._unconfirmed_of[owner]

    async def wait_until_confirmed(self, owner: Acknowledger) -> None:
        """Waits until nothing of this subscription is unconfirmed, as long as that may be."""
        while self._unconfirmed_of[owner] and not self._closed:
            await self._wait_for_change()

    async def wait_until_all_confirmed(self) -> None:
        """Waits until nothing at all is unconfirmed, as long as that may be."""
        while self.unconfirmed and not self._closed:
            await self._wait_for_change()

    async def wait_for_room(self) -> None:
        """Waits until few enough are unconfirmed, as long as that may be."""
        while self.crowded and not self._closed:
            await self._wait_for_change()

    def _confirmed(self, owner: Acknowledger) -> None:
        self._unconfirmed_of[owner] -= 1
        if not self._unconfirmed_of[owner]:
            del self._unconfirmed_of[owner]

    async def _wait_for_change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _pump(self) -> None:
        # A reply may arrive while its request is being sent, and pump again.
        if self._pumping:
            return
        self._pumping = True
        try:
            # Once around: what fails at once waits for the next turn.
            for _ in range(len(self._waiting)):
                if self._link is None or len(self._sent) >= MAX_IN_FLIGHT:
                    return
                self._send(self._waiting.popleft(), self._link)
        finally:
            self._pumping = False

    def _send(self, pending: _Pending, link: Link) -> None:
        answers: list[Outcome | EnSyncError] = []
        request = Acknowledge(pending.owner.event_name, pending.key.idem, pending.key.block)

        def on_reply(answer: Outcome | EnSyncError) -> None:
            answers.append(answer)
            if pending in self._sent:
                self._answered(pending, answer)

        call = link.send(request, on_reply)
        self._sent[pending] = _Sent(pending, call, anyio.current_time() + self._timeout)
        if answers:
            self._answered(pending, answers[0])

    def _answered(self, pending: _Pending, answer: Outcome | EnSyncError) -> None:
        del self._sent[pending]
        if isinstance(answer, EnSyncError):
            self._waiting.append(pending)
            return
        if answer.unauthenticated:
            self._waiting.append(pending)
            self._session_unknown(answer.message)
            return
        self._confirmed(pending.owner)
        if means_done(answer):
            pending.owner.acknowledged(pending.key)
        else:
            pending.owner.acknowledgement_refused(pending.key, answer.message)
        self._notify()
        self._pump()
