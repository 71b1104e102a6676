"""How an event says that it is replayed (PROTOCOL 6)."""

from __future__ import annotations

import json

from ensync.json_text import as_object
from ensync.server.publication import parse_json_object
from ensync.server.store import EventState, StoredEvent

__all__ = ["as_replayed"]


def as_replayed(stored: StoredEvent, state: EventState, now_ms: int) -> StoredEvent:
    """The event with ``$internal.replay_info`` in its metadata."""
    metadata = parse_json_object("metadata", stored.event.metadata)
    metadata["$internal"] = {
        **(as_object(metadata.get("$internal")) or {}),
        "replay_info": {
            "is_replayed": _internal_value("true"),
            "replay_timestamp": _internal_value(str(now_ms)),
            "was_acknowledged": _internal_value(
                "true" if state is EventState.ACKNOWLEDGED else "false"
            ),
        },
    }
    event = stored.event._replace(metadata=json.dumps(metadata))
    return stored._replace(event=event)


def _internal_value(content: str) -> dict[str, object]:
    return {"is_string": False, "content": content}
