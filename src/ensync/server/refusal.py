"""How the engine says no."""

from __future__ import annotations

import enum

__all__ = ["Reason", "Refusal", "shown"]


class Reason(enum.Enum):
    """Why a request is refused; doors turn it into what their protocol has for it."""

    UNKNOWN_CLIENT = "unknown client"  # it has to connect again
    UNKNOWN_KEY = "unknown app key"
    FORBIDDEN = "forbidden"
    INVALID = "invalid"
    NOT_FOUND = "not found"
    ALREADY = "already settled"
    LIMIT = "limit reached"
    STOPPING = "stopping"  # to be asked of the engine that comes next


class Refusal(Exception):
    """A request is refused. The text is for the client; it holds no secret.

    Not for a fault of the engine, which is any other exception.

    Attributes:
        reason: The kind of refusal.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def shown(text: str, limit: int = 80) -> str:
    """Quotes a text of the client's in a message, without control characters and not all of it."""
    return ascii(text) if len(text) <= limit else f"{text[:limit]!a}..."
