"""What happens to bytes on their way in one direction."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
import anyio.lowlevel

from ensync.testing.changes import Changes

if TYPE_CHECKING:
    from ensync.testing.connection import Connection

__all__ = ["Cut", "Direction", "Slicer", "Wire"]

Direction: TypeAlias = Literal["upstream", "downstream"]
"""``"upstream"`` is from the client to the engine, ``"downstream"`` is back."""

# A throttled wire moves this many seconds' worth of bytes at a time.
THROTTLE_STEP = 0.05


@dataclass(slots=True)
class Cut:
    """What is to be done to a connection once so many more bytes have passed."""

    remaining: int
    act: Callable[[Connection], None]
    done: anyio.Event


@dataclass(slots=True)
class Slicer:
    """Cuts data into pieces of random sizes, with a pause after each."""

    lot: random.Random
    max_size: int
    pause: float


class Wire:
    """The state of one direction, shared by all connections of a proxy.

    Attributes:
        read_total: Bytes taken from senders.
        dropped_total: How many of those were not passed on.
        progress: Notified when bytes were taken.
        changes: Notified after each change to the faults below, so that they take
            effect at once.
    """

    def __init__(self) -> None:
        self.changes = Changes()
        self.progress = Changes()
        self.read_total = 0
        self.dropped_total = 0
        self.stalled = False
        self.dropping = False
        self.latency = 0.0
        self.rate: float | None = None
        self.slicer: Slicer | None = None
        self.corrupting = False
        self.cut: Cut | None = None

    def heal(self) -> None:
        """Ends all faults."""
        self.stalled = False
        self.dropping = False
        self.latency = 0.0
        self.rate = None
        self.slicer = None
        self.corrupting = False
        self.cut = None
        self.changes.notify()

    def faults(self) -> list[str]:
        """Names what is wrong with this wire now."""
        flags = {
            "stalled": self.stalled,
            "black hole": self.dropping,
            "delayed": self.latency > 0,
            "throttled": self.rate is not None,
            "sliced": self.slicer is not None,
            "about to be corrupted": self.corrupting,
            "about to be cut": self.cut is not None,
        }
        return [name for name, is_so in flags.items() if is_so]

    async def flowing(self) -> None:
        """Waits until bytes may move."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        await self.changes.until(lambda: not self.stalled)

    async def travelled(self, departed: float) -> None:
        """Waits for as long as what was sent at that time is under way."""
        while not self.dropping:
            left = departed + self.latency - anyio.current_time()
            if left <= 0:
                return
            await self.changes.interrupt(anyio.sleep, left)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Splits a chunk as the faults of each moment want it."""
        if self.corrupting:
            self.corrupting = False
            data = bytes(byte ^ 0xFF for byte in data)
        start = 0
        while start < len(data):
            end = start + self._piece_size(len(data) - start)
            yield data[start:end]
            start = end

    def step(self, size: int) -> int:
        """How many of so many bytes move at a time."""
        return size if self.rate is None else min(size, max(1, int(self.rate * THROTTLE_STEP)))

    def _piece_size(self, size: int) -> int:
        size = self.step(size)
        if self.slicer is not None:
            size = min(size, self.slicer.lot.randint(1, self.slicer.max_size))
        return size

    async def pause(self) -> None:
        """Keeps the pieces of a sliced chunk from growing together again."""
        slicer = self.slicer
        if slicer is None:
            return
        await anyio.lowlevel.checkpoint()
        if slicer is self.slicer:  # else it was healed meanwhile
            await self.changes.interrupt(anyio.sleep, slicer.pause)

    def up_to_cut(self, piece: bytes) -> tuple[bytes, Cut | None]:
        """Returns what may pass of a piece, and the cut that is due after it."""
        cut = self.cut
        if cut is None:
            return piece, None
        head = piece[: cut.remaining]
        cut.remaining -= len(head)
        if cut.remaining > 0:
            return head, None
        self.cut = None
        return head, cut
