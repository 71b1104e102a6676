"""What one subscription knows of the events that it was given: pure bookkeeping.

It answers one question: an event arrives; was it here before, and where is it now?
After a lost link an engine hands out again whatever it does not know to be
settled, so the same event may arrive while it waits in the buffer, while a loop
body has it in hand, or after it was settled.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import NamedTuple

__all__ = ["Arrival", "DeliveryLedger", "EventKey", "Place"]

# How many events that have left are remembered, so that they are recognised if
# they come back. An entry takes about 200 bytes.
_REMEMBERED = 10_000


class EventKey(NamedTuple):
    """What names a stored event (PROTOCOL 6)."""

    idem: str
    block: int


class Place(enum.Enum):
    """Where an event is, as far as this subscription knows."""

    BUFFERED = "buffered"  # arrived, waiting for a loop to ask
    IN_HAND = "in hand"  # given to a loop body
    ACKNOWLEDGING = "acknowledging"  # done with; the engine has not confirmed it yet
    DEFERRING = "deferring"  # given back; the engine has not confirmed it yet
    ACKNOWLEDGED = "acknowledged"
    DISCARDED = "discarded"
    GIVEN_BACK = "given back"  # deferred, refused or cancelled: to be shown again


# No set: what is in one is found by a hash that enum makes in Python.
_STILL_HERE = (Place.BUFFERED, Place.IN_HAND, Place.ACKNOWLEDGING, Place.DEFERRING)


class Arrival(enum.Enum):
    """What to do with an event that arrives."""

    SHOW = "show"
    SHOW_AGAIN = "show again"  # seen before, and not settled since
    IGNORE = "ignore"  # it is still here
    KEEP = "keep"  # to be shown if the engine confirms that it was deferred
    ACKNOWLEDGE_AGAIN = "acknowledge again"  # settled, and the engine has not noted it
    DISCARD_AGAIN = "discard again"


class DeliveryLedger:
    """Places of events by key. Events that have left are forgotten, oldest first."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._here: dict[EventKey, Place] = {}
        self._left: OrderedDict[EventKey, Place] = OrderedDict()
        self._remembered = remembered

    def arrived(self, key: EventKey) -> Arrival:
        """Decides what an arriving event is, and notes it as buffered if it is to be shown."""
        here = self._here.get(key)
        if here is not None:
            # What is deferred by no time at all may come before the engine's answer.
            return Arrival.KEEP if here is Place.DEFERRING else Arrival.IGNORE
        left = self._left.pop(key, None)
        if left is Place.ACKNOWLEDGED:
            self._here[key] = Place.ACKNOWLEDGING
            return Arrival.ACKNOWLEDGE_AGAIN
        if left is Place.DISCARDED:
            self._remember(key, Place.DISCARDED)
            return Arrival.DISCARD_AGAIN
        self._here[key] = Place.BUFFERED
        return Arrival.SHOW if left is None else Arrival.SHOW_AGAIN

    def place(self, key: EventKey) -> Place | None:
        """Where the event is, or None when it was never here or is forgotten."""
        return self._here.get(key) or self._left.get(key)

    def find(self, idem: str) -> EventKey | None:
        """The key of an event that is here, by its id alone."""
        return next((key for key in self._here if key.idem == idem), None)

    def move(self, key: EventKey, place: Place) -> None:
        """Notes that the event is now in another place."""
        if place in _STILL_HERE:
            self._left.pop(key, None)
            self._here[key] = place
            return
        self._here.pop(key, None)
        self._remember(key, place)

    def count(self, place: Place) -> int:
        return sum(1 for known in self._here.values() if known is place)

    def _remember(self, key: EventKey, place: Place) -> None:
        self._left[key] = place
        self._left.move_to_end(key)
        if len(self._left) > self._remembered:
            self._left.popitem(last=False)
