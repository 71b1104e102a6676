"""Events as JSON records, read into deliveries.

Engines write an event as JSON in two places: pushed over WebSocket, and as the
answer to a replay on either transport. The spellings of the keys differ from
engine to engine (PROTOCOL 3 and 4); all of them are read here.

Only what routing and settling need is checked: a name, an id and a block. A
payload or metadata that makes no sense is handed on as text, so that it spoils
its own event and no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from ensync.errors import EnSyncInvalidEventError
from ensync.int64 import fits_int64, parse_int64
from ensync.transports.base import Delivery

__all__ = ["parse_record", "parse_replay_data"]

Record: TypeAlias = Mapping[str, Any]

_NAME_KEYS = ("name", "event_name", "eventName")
_IDEM_KEYS = ("idem", "id", "event_idem", "eventIdem")
_BLOCK_KEYS = ("block", "partition_block", "partitionBlock")
_LOGGED_AT_KEYS = ("loggedAt", "logged_at")


def parse_record(record: str | Record) -> Delivery:
    """Reads one event from its JSON record.

    Args:
        record: The JSON text, or the object that it stands for.

    Returns:
        The event. A missing payload, metadata or sender is empty text, and a
        missing block is 0, which JSON made from proto3 leaves out.

    Raises:
        EnSyncInvalidEventError: It is not a JSON object, or has no name, no id, or a
            block that is not a 64-bit integer.
    """
    fields = _object(record) if isinstance(record, str) else record
    return Delivery(
        idem=_required_text(fields, _IDEM_KEYS),
        event_name=_required_text(fields, _NAME_KEYS),
        payload=_as_text(fields.get("payload")),
        block=_block(fields),
        metadata=_as_text(fields.get("metadata")),
        sender=_as_text(fields.get("sender")),
        logged_at_ms=_milliseconds(_first(fields, _LOGGED_AT_KEYS)),
    )


def parse_replay_data(data: str, *, event_name: str, idem: str) -> Delivery:
    """Reads the ``event_data`` of a replay, in either of the shapes in use.

    It is either the encrypted payload itself (base64) or a JSON object with the
    fields of a delivery (PROTOCOL 3).

    Args:
        data: What the engine answered.
        event_name: The name asked for, which stands where the answer has none.
        idem: The id asked for, likewise.

    Raises:
        EnSyncInvalidEventError: The answer is empty, or JSON that is no event.
    """
    if not data.strip():
        raise EnSyncInvalidEventError(
            "the engine replayed an event without any data",
            code="bad_record",
            event_name=event_name,
            event_idem=idem,
        )
    if not data.lstrip().startswith("{"):  # no base64 text starts with a brace
        return Delivery(idem, event_name, data, block=0, metadata="", sender="")
    asked_for = {_NAME_KEYS[-1]: event_name, _IDEM_KEYS[-1]: idem}
    return parse_record({**asked_for, **_object(data)})


def _object(text: str) -> Record:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_record(f"is not JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise _bad_record(f"is not a JSON object but {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _first(fields: Record, keys: tuple[str, ...]) -> Any:
    return next((fields[key] for key in keys if fields.get(key) is not None), None)


def _required_text(fields: Record, keys: tuple[str, ...]) -> str:
    value = _first(fields, keys)
    if isinstance(value, str) and value:
        return value
    raise _bad_record(f"has no text under any of {', '.join(keys)}")


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, separators=(",", ":"))


def _block(fields: Record) -> int:
    value = _first(fields, _BLOCK_KEYS)
    block = 0 if value is None else _integer(value)
    if block is None:
        raise _bad_record("has a block that is not a 64-bit integer")
    return block


def _milliseconds(value: Any) -> int | None:
    if isinstance(value, float):
        return int(value) if math.isfinite(value) else None
    return _integer(value)


def _integer(value: Any) -> int | None:
    if isinstance(value, str):
        return parse_int64(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if fits_int64(value) else None


def _bad_record(what: str) -> EnSyncInvalidEventError:
    return EnSyncInvalidEventError(f"an event's record {what}", code="bad_record")
