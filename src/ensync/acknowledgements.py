"""Acknowledgements on their way: pipelined, bounded, sent again after a lost link.

An engine may leave those of one name unanswered. That name's may not take all the places
then: others' go on, and the link keeps room for everything else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import anyio

from ensync.connection import Connection
from ensync.errors import EnSyncError
from ensync.ledger import EventKey
from ensync.settling_answers import means_done
from ensync.transports.base import Acknowledge, Call, Link, Outcome

__all__ = ["AcknowledgementPipeline", "Acknowledger"]

# Requests on the wire at a time: more do not go faster.
MAX_IN_FLIGHT = 128
# A subscription's loops wait when this many of its events are done with and not yet confirmed.
MAX_UNCONFIRMED = 1_024
# A subscription may have so many times as many on the wire as there are places left: one
# alone gets most of them, and however many have no answers, there is one left for the next.
_TIMES_WHAT_IS_LEFT = 4


class Acknowledger(Protocol):
    """A subscription, as seen from here."""

    @property
    def event_name(self) -> str: ...

    @property
    def finished(self) -> bool:
        """Whether there will be no more events."""
        ...

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
    """Owned by a session. Nothing here awaits but the methods that say so.

    Args:
        timeout: Seconds that an acknowledgement may go unanswered.
        clock: The time now, in seconds.
    """

    def __init__(self, *, timeout: float, clock: Callable[[], float]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._connection: Connection | None = None
        self._waiting: OrderedDict[Acknowledger, deque[_Pending]] = OrderedDict()
        self._sent: dict[_Pending, _Sent] = {}
        # No Counters: what is zero in one is looked up in Python, and with many subscriptions
        # nearly all of these are.
        self._sent_of: dict[Acknowledger, int] = {}
        self._unconfirmed_of: dict[Acknowledger, int] = {}
        self._changed: anyio.Event | None = None
        self._pumping = False
        self._closed = False
        self.answered = 0

    @property
    def unconfirmed(self) -> int:
        return sum(self._unconfirmed_of.values())

    def crowded(self, owner: Acknowledger) -> bool:
        """Whether a subscription's loops should wait for its acknowledgements."""
        return self._unconfirmed_of.get(owner, 0) >= MAX_UNCONFIRMED and not owner.finished

    def owner_finished(self) -> None:
        """Some subscription has no more events: its loops need no room."""
        self._notify()

    def add(self, owner: Acknowledger, key: EventKey) -> None:
        """Acknowledges one event, now or as soon as there is a link."""
        self._wait_in_turn(_Pending(owner, key))
        _add(self._unconfirmed_of, owner, 1)
        self._pump()

    def _wait_in_turn(self, pending: _Pending) -> None:
        queue = self._waiting.get(pending.owner)
        if queue is None:
            queue = self._waiting[pending.owner] = deque()
        queue.append(pending)

    def attach(self, connection: Connection) -> None:
        """Sends what waits over a new link."""
        self._connection = connection
        self._pump()

    def detach(self) -> None:
        """The link is gone: what it did not answer waits for the next one."""
        self._connection = None
        unanswered = list(self._sent.values())
        self._sent.clear()
        self._sent_of.clear()
        for sent in unanswered:
            sent.call.cancel()
        later, self._waiting = self._waiting, OrderedDict()
        for sent in unanswered:
            self._wait_in_turn(sent.pending)
        for queue in later.values():
            for pending in queue:
                self._wait_in_turn(pending)

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
        for sent in late:
            self._wait_in_turn(sent.pending)
        self._pump()
        return bool(late)

    def _cancel(self, given_up: list[_Sent]) -> None:
        # Cancelling one may end the link, which answers all that are still sent.
        for sent in given_up:
            self._no_longer_sent(sent.pending)
        for sent in given_up:
            sent.call.cancel()

    def abandon(self, owner: Acknowledger) -> int:
        """Forgets a subscription's acknowledgements; returns how many were unconfirmed."""
        self._waiting.pop(owner, None)
        self._cancel([sent for sent in self._sent.values() if sent.pending.owner is owner])
        unconfirmed = self._unconfirmed_of.pop(owner, 0)
        self._pump()
        self._notify()
        return unconfirmed

    def unconfirmed_of(self, owner: Acknowledger) -> int:
        return self._unconfirmed_of.get(owner, 0)

    async def wait_until_confirmed(self, owner: Acknowledger) -> None:
        """Waits until nothing of this subscription is unconfirmed, as long as that may be."""
        while owner in self._unconfirmed_of and not self._closed:
            await self._wait_for_change()

    async def wait_until_all_confirmed(self) -> None:
        """Waits until nothing at all is unconfirmed, as long as that may be."""
        while self.unconfirmed and not self._closed:
            await self._wait_for_change()

    async def wait_for_room(self, owner: Acknowledger) -> None:
        """Waits until few enough of a subscription are unconfirmed, as long as that may be."""
        while self.crowded(owner) and not self._closed:
            await self._wait_for_change()

    def _no_longer_sent(self, pending: _Pending) -> None:
        del self._sent[pending]
        _add(self._sent_of, pending.owner, -1)

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
            # No more than would be sent in all: what fails at once waits for the next time.
            for _ in range(MAX_IN_FLIGHT):
                connection = self._connection
                if not self._waiting or connection is None or len(self._sent) >= MAX_IN_FLIGHT:
                    return
                link = connection.live_link
                room = link.room
                pending = self._next(room) if room > 0 else None
                if pending is None:
                    return
                self._send(pending, connection, link)
        finally:
            self._pumping = False

    def _next(self, room: int) -> _Pending | None:
        """What is to be sent next, in turns among the subscriptions that may send."""
        for owner, queue in self._waiting.items():
            sent = self._sent_of.get(owner, 0)
            if sent and (room == 1 or sent >= _TIMES_WHAT_IS_LEFT * room):
                continue
            pending = queue.popleft()
            if queue:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
            return pending
        return None

    def _send(self, pending: _Pending, connection: Connection, link: Link) -> None:
        answers: list[Outcome | EnSyncError] = []
        request = Acknowledge(pending.owner.event_name, pending.key.idem, pending.key.block)

        def on_reply(answer: Outcome | EnSyncError) -> None:
            answers.append(answer)
            if pending in self._sent:
                self._answered(pending, connection, answer)

        call = link.send(request, on_reply)
        self._sent[pending] = _Sent(pending, call, self._clock() + self._timeout)
        _add(self._sent_of, pending.owner, 1)
        if answers:
            self._answered(pending, connection, answers[0])

    def _answered(
        self, pending: _Pending, connection: Connection, answer: Outcome | EnSyncError
    ) -> None:
        self._no_longer_sent(pending)
        if isinstance(answer, EnSyncError):
            self._wait_in_turn(pending)
            return
        if answer.unauthenticated:
            self._wait_in_turn(pending)
            connection.unknown_to_engine(answer.message)
            return
        connection.was_useful = True
        self.answered += 1
        _add(self._unconfirmed_of, pending.owner, -1)
        if means_done(answer):
            pending.owner.acknowledged(pending.key)
        else:
            pending.owner.acknowledgement_refused(pending.key, answer.message)
        self._notify()
        self._pump()


def _add(counts: dict[Acknowledger, int], owner: Acknowledger, number: int) -> None:
    """Counts up or down; what is zero is left out."""
    count = counts.get(owner, 0) + number
    if count:
        counts[owner] = count
    else:
        counts.pop(owner, None)
