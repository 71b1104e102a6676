"""Keeps the settled events of a data file within bounds."""

from __future__ import annotations

from functools import partial

from ensync.server.retention import Retention
from ensync.server.sqlite_tables import SettledTotal, Tables
from ensync.server.sqlite_writer import Operation

__all__ = ["SettledEvents"]


class SettledEvents:
    """Knows how much is kept of settled events, and forgets what is too much."""

    def __init__(self, tables: Tables, retention: Retention) -> None:
        self._tables = tables
        self._retention = retention
        self._total = tables.settled_total()
        self._forgetting: Operation[SettledTotal] | None = None

    @property
    def are_too_many(self) -> bool:
        """Whether there are more than are to be kept, whatever their age."""
        return self._forgetting is None and self._retention.is_exceeded(*self._total)

    def add(self, size: int) -> None:
        """One more is settled."""
        events, total = self._total
        self._total = SettledTotal(events + 1, total + size)

    def forget_some(self, now_ms: int) -> Operation[SettledTotal] | None:
        """Makes the operation that forgets what is not to be kept, or a good part of it.

        Returns:
            None while the one before is under way: two would forget the same excess twice.
        """
        if self._forgetting is not None:
            return None
        forget = partial(self._tables.forget_settled, self._total, self._retention, now_ms)
        self._forgetting = Operation(forget, self._forgotten, self._not_forgotten)
        return self._forgetting

    def _forgotten(self, forgotten: SettledTotal) -> None:
        self._forgetting = None
        events, size = self._total
        self._total = SettledTotal(events - forgotten.events, size - forgotten.bytes)

    def _not_forgotten(self, _error: Exception) -> None:
        self._forgetting = None
