"""What an engine has done in each of the last seconds."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ensync.server.statistics import Statistics

__all__ = ["INTERVAL", "RateHistory", "Rates"]

INTERVAL = 1.0  # seconds
_KEPT = 300  # samples: five minutes


class Rates(NamedTuple):
    """Events per second, and when that was, by the clock of whoever samples."""

    at: float
    published: float
    delivered: float
    acknowledged: float


class RateHistory:
    """The rates of the last minutes, from samples of what an engine counts.

    Args:
        now: The time, in seconds.
        statistics: What had been counted by then.
        kept: How many rates to keep. The oldest are forgotten.
    """

    def __init__(self, now: float, statistics: Statistics, kept: int = _KEPT) -> None:
        self._at = now
        self._counted = statistics
        self._rates: deque[Rates] = deque(maxlen=kept)

    def sample(self, now: float, statistics: Statistics) -> None:
        """Adds the rates since the sample before. Nothing happens when no time has passed."""
        # A loop that was busy samples late, so the time that has passed is not always the same.
        seconds = now - self._at
        if seconds <= 0:
            return
        before = self._counted
        self._rates.append(
            Rates(
                now,
                (statistics.published - before.published) / seconds,
                (statistics.delivered - before.delivered) / seconds,
                (statistics.acknowledged - before.acknowledged) / seconds,
            )
        )
        self._at, self._counted = now, statistics

    def until(self, now: float) -> list[Rates]:
        """The rates, the oldest first, with how many seconds ago instead of when."""
        return [rates._replace(at=now - rates.at) for rates in self._rates]
