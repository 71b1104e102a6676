"""How long settled events are kept for replay."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Retention"]

_GIB = 1 << 30


class Retention(NamedTuple):
    """What bounds the settled events that are kept. The first limit that is reached counts.

    Those that were settled first are forgotten first. Events that are not settled are
    kept in any case.

    Attributes:
        events: How many.
        bytes: How much they may take together, in bytes.
        age: For how long after it was settled each is kept, in seconds. None: for ever.
    """

    events: int = 100_000
    bytes: int = _GIB
    age: float | None = None

    def is_exceeded(self, events: int, size: int) -> bool:
        """Whether that many settled events, of so many bytes, are too much."""
        return events > self.events or size > self.bytes

    def is_over(self, settled_at_ms: int, now_ms: int) -> bool:
        """Whether an event was settled too long ago to be kept."""
        return self.age is not None and now_ms - settled_at_ms >= self.age * 1000
