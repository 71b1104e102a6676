"""Where the websockets library logs to."""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["websocket_logger"]


class _WithoutFrames(logging.LoggerAdapter[Any]):
    """Warnings and worse. Debugging, the library writes out frames, and one holds the app key."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        return level >= logging.WARNING and super().isEnabledFor(level)


def websocket_logger() -> logging.LoggerAdapter[Any]:
    """A logger for a connection or a server of the websockets library."""
    return _WithoutFrames(logging.getLogger("ensync"), {})
