"""When what is written in a turn of the event loop leaves: together, and soon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["ENOUGH_FOR_A_WRITE", "CallSoon", "Cork"]

ENOUGH_FOR_A_WRITE = 64 * 1024
"""Bytes. More in one system call gains nothing."""

CallSoon: TypeAlias = Callable[[Callable[[], object]], object]


class Cork(ABC):
    """Holds small writes back until they are worth one system call.

    Args:
        call_soon: Calls a function in the next turn of the loop.
    """

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        self._held = False
        self._passes_next = False
        self._scheduled = False

    @abstractmethod
    def flush(self) -> None:
        """Writes what waits."""

    def flush_soon(self) -> None:
        """Something waits to be written."""
        if self._held or self._scheduled:
            return
        if self._passes_next:
            self._passes_next = False
            self.flush()
        else:
            self._scheduled = True
            self._call_soon(self._flush_as_scheduled)

    def hold(self) -> None:
        """Something was read: what is written in answer to it goes together."""
        self._held = True

    def release(self) -> None:
        """That was it. What was held is written, and what comes next at once, too.

        This saves who asks for one thing at a time a turn of the loop, and costs who asks for
        many at once one more write for each time they are answered.
        """
        self._held = False
        self.flush()
        self._passes_next = True

    def _flush_as_scheduled(self) -> None:
        self._scheduled = False
        self.flush()
