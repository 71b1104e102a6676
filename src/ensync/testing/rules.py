"""Faults that wait for their moment."""

from __future__ import annotations

import enum
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from ensync.errors import EnSyncValidationError
from ensync.server.hooks import DoorCall
from ensync.testing.watch import Watch

__all__ = [
    "Act",
    "FaultRule",
    "Match",
    "Method",
    "Point",
    "RandomFaults",
    "ScriptedFault",
    "checked",
]

Method: TypeAlias = Literal[
    "connect",
    "heartbeat",
    "publish",
    "subscribe",
    "unsubscribe",
    "acknowledge",
    "rollback",
    "defer",
    "discard",
    "replay",
    "pause",
    "continue",
    "delivery",
]
"""What a fault is about: a kind of request, or the sending of one event to a subscriber."""


class Point(enum.Enum):
    """When, in the course of a call, a fault happens."""

    REQUEST = "request"  # it was read, and not handled yet
    REPLY = "reply"  # it was handled, and not answered yet
    DELIVERY = "delivery"  # an event is about to be sent


class Match(NamedTuple):
    """Which calls a fault is for. None: all."""

    point: Point
    method: Method
    event_name: str | None

    @classmethod
    def calls(cls, method: Method, after_commit: bool, event_name: str | None) -> Match:
        """Matches calls of a kind, at one side of the engine's commit.

        Raises:
            EnSyncValidationError: There is no such method.
        """
        point = Point.REPLY if after_commit else Point.REQUEST
        return cls(Point.DELIVERY if method == "delivery" else point, checked(method), event_name)

    def fits(self, point: Point, call: DoorCall) -> bool:
        """Whether it is for this one."""
        if (point, call.method) != (self.point, self.method):
            return False
        return self.event_name is None or self.event_name == call.event_name


def checked(method: Method) -> Method:
    """Returns a method that exists.

    Raises:
        EnSyncValidationError: It does not.
    """
    accepted = get_args(Method)
    if method not in accepted:
        raise EnSyncValidationError(f"method={method!r}: accepted are {', '.join(accepted)}")
    return method


class FaultRule(ABC):
    """A fault that was asked for.

    Attributes:
        watch: Notified when it has happened or was taken back.
    """

    def __init__(self, counter: Counter[str]) -> None:
        self._counter = counter
        self._happened = 0
        self._cancelled = False
        self.watch = Watch()

    @property
    def happened(self) -> int:
        """How often it has happened."""
        return self._happened

    @property
    def is_over(self) -> bool:
        """Whether it will not happen any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Takes it back, and lets go of what it holds up at the moment."""
        self._cancelled = True
        self.watch.notify()

    async def wait(self, times: int = 1) -> None:
        """Waits until it has happened so many times, counted from the beginning."""
        await self.watch.until(lambda: self._happened >= times)

    async def cancelled(self) -> None:
        """Waits until it is taken back."""
        await self.watch.until(lambda: self._cancelled)

    @abstractmethod
    def wants(self, point: Point, call: DoorCall) -> bool:
        """Whether it is to happen now."""

    @abstractmethod
    async def happen(self, point: Point, call: DoorCall) -> int | None:
        """Happens, by waiting, by raising, or by what it does to the connection.

        Returns:
            How many times an event is to be sent, where that is the fault.
        """

    def _count(self, kind: str) -> None:
        self._happened += 1
        self._counter[kind] += 1
        self.watch.notify()


Act: TypeAlias = Callable[[DoorCall, FaultRule], Awaitable[int | None]]
"""What a fault does, as ``FaultRule.happen``."""


class ScriptedFault(FaultRule):
    """Happens to the next calls that it is for."""

    def __init__(
        self, counter: Counter[str], kind: str, match: Match, act: Act, count: int | None
    ) -> None:
        super().__init__(counter)
        self._kind = kind
        self._match = match
        self._act = act
        self._count_limit = count

    def __repr__(self) -> str:
        state = "over" if self.is_over else "waiting"
        return f"<{self._kind} for {self._match.method}: happened {self.happened} times, {state}>"

    @property
    def is_over(self) -> bool:
        """Whether it was taken back, or has happened as often as asked."""
        done = self._count_limit is not None and self.happened >= self._count_limit
        return super().is_over or done

    def wants(self, point: Point, call: DoorCall) -> bool:
        """Whether it is for this call."""
        return not self.is_over and self._match.fits(point, call)

    async def happen(self, point: Point, call: DoorCall) -> int | None:
        """Does what it was made for."""
        self._count(self._kind)
        return await self._act(call, self)


class RandomFaults(FaultRule):
    """Happens to any call with some probability, each time as one of several kinds."""

    def __init__(
        self,
        counter: Counter[str],
        lot: random.Random,
        rate: float,
        menu: Mapping[Point, Sequence[tuple[str, Act]]],
    ) -> None:
        super().__init__(counter)
        self._lot = lot
        self._rate = rate
        self._menu = menu

    def __repr__(self) -> str:
        state = "over" if self.is_over else f"rate {self._rate}"
        return f"<random faults: happened {self.happened} times, {state}>"

    def wants(self, point: Point, call: DoorCall) -> bool:
        """Throws the dice."""
        return not self.is_over and bool(self._menu.get(point)) and self._lot.random() < self._rate

    async def happen(self, point: Point, call: DoorCall) -> int | None:
        """Does one of the things that can happen at this point."""
        kind, act = self._lot.choice(self._menu[point])
        self._count(kind)
        return await act(call, self)
