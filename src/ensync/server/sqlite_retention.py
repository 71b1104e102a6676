"""Keeps the settled events of a data file within bounds."""

from __future__ import annotations

from functools import partial

from ensync.server.retention import Retention
from ensync.server.sqlite_tables import SettledTotal, Tables
from ensync.server.sqlite_writer import Operation

__all__ = ["SettledKeeper"]


class SettledKeeper:
    """Knows how much is kept of settled events, and when that is too much."""

    def __init__(self, tables: Tables, retention: Retention) -> None:
        self._tables = tables
        self._retention = retention
        self._total = tables.settled_total()
        self._oldest_ms = tables.oldest_settled_ms()

    def add(self, size: int, settled_at_ms: int) -> None:
        """One more is settled."""
        events, total = self._total
        self._total = SettledTotal(events + 1, total + size)
        if not events:
            self._oldest_ms = settled_at_ms

    def exceeds(self, now_ms: int) -> bool:
        """Whether something has to go."""
        events, size = self._total
        return events > 0 and self._retention.exceeded_by(events, size, self._oldest_ms, now_ms)

    def forget_some(self, now_ms: int) -> Operation[object]:
        """Makes the operation that forgets some of it."""
