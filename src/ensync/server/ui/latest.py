"""The events that were published last, without their payloads."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ensync.json_text import as_object, decode_json
from ensync.server.store import StoredEvent

__all__ = ["LatestEvents", "SeenEvent"]

_KEPT = 30
# Metadata may be as long as an event. What is kept for looking at is not.
_SHOWN_METADATA = 1_000
_LONGEST_DESCRIPTION = 4_096


class SeenEvent(NamedTuple):
    """What travels in the clear of an event, and how large the rest is.

    Attributes:
        sealed_bytes: Size of the encrypted payload, as it was sent.
        metadata: JSON text, perhaps only the first part of it.
        metadata_length: How many characters it has altogether.
        description: What the sender says about the payload, JSON text; None if there is none,
            or too much.
    """

    idem: str
    event_name: str
    sender: str
    recipient: str
    logged_at_ms: int
    sealed_bytes: int
    metadata: str
    metadata_length: int
    description: str | None

    def plain_bytes(self) -> int | None:
        """Size of the payload before it was encrypted, if the sender says so."""
        if self.description is None:
            return None
        size = (as_object(decode_json(self.description)) or {}).get("byte_size")
        return size if isinstance(size, int) else None


class LatestEvents:
    """Remembers the events that were published last.

    Args:
        kept: How many. The oldest are forgotten.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._events: deque[SeenEvent] = deque(maxlen=kept)

    def see(self, stored: StoredEvent) -> None:
        """Notes an event that was published just now."""
        # Called for every event, so it only cuts off what must not be kept.
        event = stored.event
        description = event.payload_metadata
        if description is not None and len(description) > _LONGEST_DESCRIPTION:
            description = None
        self._events.append(
            SeenEvent(
                stored.idem,
                event.queue.event_name,
                event.sender,
                event.queue.app_id,
                stored.logged_at_ms,
                len(event.payload),
                event.metadata[:_SHOWN_METADATA],
                len(event.metadata),
                description,
            )
        )

    def newest_first(self) -> list[SeenEvent]:
        """What is remembered."""
        return list(reversed(self._events))
