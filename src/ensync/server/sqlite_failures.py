"""What the log says of a data file that fails: its beginning, a count each minute, its end."""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["FailureLog"]

logger = logging.getLogger("ensync")

_INTERVAL = 60.0  # seconds


class FailureLog:
    """Keeps a disk that is full from filling the log too, with a line for each request.

    Args:
        subject: What it is that fails.
        clock: Seconds, from any moment on.
    """

    def __init__(self, subject: str, clock: Callable[[], float]) -> None:
        self._subject = subject
        self._clock = clock
        self._reason: str | None = None
        self._logged_at = 0.0
        self._not_logged = 0
        self._is_failing = False

    def failed(self, reason: str) -> None:
        """Something could not be done."""
        now = self._clock()
        # The same again within the minute is not news, even if something worked in between.
        if reason == self._reason and now - self._logged_at < _INTERVAL:
            self._not_logged += 1
            return
        more = f"; {self._not_logged} more failures before" if self._not_logged else ""
        logger.error("%s can't be used: %s%s", self._subject, reason, more)
        self._reason, self._logged_at = reason, now
        self._not_logged = 0
        self._is_failing = True

    def worked(self) -> None:
        """Something was written."""
        if not self._is_failing:
            return
        self._is_failing = False
        more = f" after {self._not_logged} more failures" if self._not_logged else ""
        logger.warning("%s can be used again%s", self._subject, more)
        self._not_logged = 0
