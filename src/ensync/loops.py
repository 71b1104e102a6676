"""Loops over a subscription: their cursors, and what becomes of an event when its loop ends.

An event is done with when its loop asks for the next one, or was left on purpose and the
block is left without an exception. Python tells neither how a loop ended nor that it did:
all there is to go by is where, and in which task, the loop's cursor comes to its end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ensync.event_buffer import Held
from ensync.transports.bridge import being_cancelled, ended_well, runs_elsewhere

if TYPE_CHECKING:
    from ensync.event import Event

__all__ = ["Cursor", "EventsInLoops"]

T = TypeVar("T")


class Settler(Protocol):
    """Who settles events, as seen from here."""

    def acknowledge(self, held: Held) -> None:
        """Acknowledges an event that is in hand, without waiting."""

    def put_back(self, held: Held) -> None:
        """An event in hand goes back to the buffer, for any loop to take."""


class EventsInLoops:
    """What the loops of one subscription have in hand, and in which task.

    Args:
        settler: Told what becomes of each.
        current_task: The task that is running; RuntimeError where none is.
    """

    def __init__(self, settler: Settler, current_task: Callable[[], Any]) -> None:
        self._settler = settler
        self._current_task = current_task
        # The task that has each in hand; None when its loop was left on purpose.
        self._takers: dict[Held, Any] = {}

    def taken(self, held: Held) -> None:
        """A loop of this task has been given an event."""
        self._takers[held] = self._current_task()

    def asked_for_next(self, held: Held) -> None:
        """A loop of this task goes on after an event: that one is done with."""
        # Not if it is another task's, which goes over the same iterator and is at work on it.
        if held in self._takers and not runs_elsewhere(self._takers[held], self._current_task()):
            del self._takers[held]
            self._settler.acknowledge(held)

    def left(self, held: Held) -> bool:
        """A loop has ended with this event in hand.

        Left on purpose, the event is settled with the block. Cancelled, it is neither
        acknowledged nor discarded: another loop may have it. So it is if it was not the
        loop's own task that ended it, for then nobody can tell why it ended.

        Returns:
            Whether it was left on purpose.
        """
        if held not in self._takers:
            return False
        if self._was_left_on_purpose(self._takers[held]):
            self._takers[held] = None
            return True
        del self._takers[held]
        self._settler.put_back(held)
        return False

    def settled(self, held: Held) -> None:
        """An event was settled, or given back, by other means than its loop."""
        self._takers.pop(held, None)

    def block_left(self, *, succeeded: bool) -> None:
        """The subscription's block ends. What a body of another task is at work on is not done."""
        takers, self._takers = self._takers, {}
        if not succeeded:
            return
        here = self._current_task()
        for held, taker in takers.items():
            if taker is None or taker is here or ended_well(taker):
                self._settler.acknowledge(held)

    def _was_left_on_purpose(self, taker: Any) -> bool:
        if taker is None:
            return True
        try:
            is_here = taker is self._current_task()
        except RuntimeError:  # collected where no task runs
            is_here = False
        return not being_cancelled() if is_here else ended_well(taker)


class Cursor(Generic[T]):
    """One ``async for`` over a subscription.

    Args:
        advance: Gives the next event, and takes the one before as done with.
        in_loops: Told when the loop ends.
        kept: The iterator that this loop goes over, if that one is kept: several loops may
            go over it, each from where the one before was broken off.
    """

    __slots__ = ("_advance", "_in_hand", "_in_loops", "_kept")

    def __init__(
        self,
        advance: Callable[[Held | None], Awaitable[Event[T]]],
        in_loops: EventsInLoops,
        kept: Cursor[T] | None = None,
    ) -> None:
        self._advance = advance
        self._in_loops = in_loops
        self._kept = kept
        self._in_hand: Held | None = None

    def __aiter__(self) -> AsyncIterator[Event[T]]:
        # Not itself, which outlives the loop: nothing else would tell when that ends.
        return Cursor(self._advance, self._in_loops, self)

    async def __anext__(self) -> Event[T]:
        event = await self._advance(self._let_go())
        self._in_hand = event._held  # pyright: ignore[reportPrivateUsage]
        return event

    def _let_go(self) -> Held | None:
        held, self._in_hand = self._in_hand, None
        if held is None and self._kept is not None:
            return self._kept._let_go()
        return held

    def __del__(self) -> None:
        # The only notice of a loop that ends in the middle of an event.
        if self._in_hand is None or not self._in_loops.left(self._in_hand):
            return
        if self._kept is not None and self._kept._in_hand is None:
            self._kept._in_hand = self._in_hand
