"""Events that wait for a loop: counted, weighed, and each given to one loop only."""

from __future__ import annotations

import math
from typing import NamedTuple

import anyio

from ensync.ledger import EventKey
from ensync.transports.base import Delivery

__all__ = ["Arrived", "EventBuffer", "Held", "weight"]

# Bytes of payloads and metadata. A few of the largest events fill it, too.
_FULL = 16 << 20


class Held:
    """An event as it was given to one loop. It may have gone back, and be another's, since.

    The same event is another one of these each time that it comes into the buffer.

    Args:
        key: Which event.
        is_replayed: Whether it was fetched once more, and is in nobody's hand by that.
    """

    __slots__ = ("is_replayed", "key")

    def __init__(self, key: EventKey, *, is_replayed: bool = False) -> None:
        self.key = key
        self.is_replayed = is_replayed


class Arrived(NamedTuple):
    """An event in the buffer, or in a loop's hand.

    Attributes:
        delivery: The event.
        redelivered: Whether it was here before.
        held: This time that it is here.
    """

    delivery: Delivery
    redelivered: bool
    held: Held


class EventBuffer:
    """One subscription's. Nothing here waits, and nothing is refused.

    Args:
        size: How many events make it full; so do 16 MiB.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._send, self._receive = anyio.create_memory_object_stream[Arrived](math.inf)
        self.count = 0
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the engine should be held back."""
        return self.count >= self._size or self.bytes >= _FULL

    @property
    def has_room_again(self) -> bool:
        """Whether the engine, held back before, may go on."""
        return self.count <= self._size // 2 and self.bytes <= _FULL // 2

    def put(self, key: EventKey, delivery: Delivery, *, redelivered: bool) -> None:
        """Takes an event in."""
        self._send.send_nowait(Arrived(delivery, redelivered, Held(key)))
        self.count += 1
        self.bytes += weight(delivery)

    def take(self) -> Arrived | None:
        """Gives the event that has waited longest, if there is one."""
        try:
            arrived = self._receive.receive_nowait()
        except anyio.WouldBlock:
            return None
        self.count -= 1
        self.bytes -= weight(arrived.delivery)
        return arrived

    def close(self) -> None:
        """Drops what is in it."""
        self._send.close()
        self._receive.close()


def weight(delivery: Delivery) -> int:
    """How many bytes an event occupies, nearly."""
    return len(delivery.payload) + len(delivery.metadata)
