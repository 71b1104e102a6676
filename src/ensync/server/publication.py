"""What may be published, and the other texts and numbers that clients send (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, cast

from ensync.base64_text import decode_base64
from ensync.crypto import parse_app_id
from ensync.errors import EnSyncValidationError
from ensync.json_text import as_object, decode_json
from ensync.payload import check_event_name, check_idem, check_reason
from ensync.server.refusal import Reason, Refusal, shown

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_PAYLOAD_BYTES",
    "Publication",
    "check_delay",
    "check_publication",
    "parse_json_object",
    "persists",
    "require_event_name",
    "require_idem",
    "require_reason",
    "time_to_live_ms",
]

_MIB = 1 << 20

# What existing clients assume (PROTOCOL 6).
MAX_PAYLOAD_BYTES = 4 * _MIB
MAX_MESSAGE_BYTES = 6 * _MIB
# Less what is added when the event is handed out, such as its id, block and sender.
_MAX_EVENT_BYTES = MAX_MESSAGE_BYTES - 16 * 1024

# A century: more is a mistake, such as milliseconds or a date.
_MAX_TTL_SECONDS = 100 * 366 * 24 * 60 * 60

_MIN_DELAY_MS = 1_000
_MAX_DELAY_MS = 24 * 60 * 60 * 1_000

# "number" is what ensync-sdk 0.3.x calls a double.
_SKELETON_TYPES = frozenset(
    {"string", "integer", "long", "double", "float", "number", "boolean", "object", "array", "null"}
)


class Publication(NamedTuple):
    """A request to publish, as it came from a client."""

    event_name: str
    payload: str
    delivery_to: str
    metadata: str = "{}"
    payload_metadata: str | None = None


def check_publication(publication: Publication) -> dict[str, Any]:
    """Checks all of a publication but who may send it.

    Returns:
        Its metadata.

    Raises:
        Refusal: Something is wrong with it.
    """
    require_event_name(publication.event_name)
    _check_size(publication)
    _check_base64(publication.payload)
    _check_app_id(publication.delivery_to)
    if publication.payload_metadata is not None:
        _check_payload_metadata(publication.payload_metadata)
    return parse_json_object("metadata", publication.metadata)


def require_event_name(event_name: str) -> None:
    """Refuses a text that can't be an event name."""
    _require(check_event_name, event_name)


def require_idem(idem: str) -> None:
    """Refuses a text that can't be an event's id."""
    _require(check_idem, idem)


def require_reason(reason: str) -> None:
    """Refuses a text that can't be a reason."""
    _require(check_reason, reason)


def check_delay(delay_ms: int) -> None:
    """Refuses a delay that is neither 0 nor within what a deferral allows."""
    if delay_ms != 0 and not _MIN_DELAY_MS <= delay_ms <= _MAX_DELAY_MS:
        _refuse(
            f"delay must be 0, or from {_MIN_DELAY_MS} to {_MAX_DELAY_MS} milliseconds "
            f"(24 hours), not {delay_ms}"
        )


def parse_json_object(name: str, text: str) -> dict[str, Any]:
    """Reads the text of a JSON object, strictly: no NaN, and of no absurd depth.

    Raises:
        Refusal: It is not one; the message calls it by its name.
    """
    try:
        members = as_object(decode_json(text))
    except ValueError as error:
        raise Refusal(Reason.INVALID, f"{name} is not JSON: {error}") from error
    if members is None:
        _refuse(f"{name} must be a JSON object")
    return members


def persists(metadata: dict[str, Any]) -> bool:
    """Whether the event may be kept for replay once it is settled, as its metadata asks."""
    wish = _member(metadata, "persist")
    return wish is not False and wish != "false"


def time_to_live_ms(metadata: dict[str, Any]) -> int | None:
    """For how long the event is to be handed out, as its metadata asks. None: for ever.

    Raises:
        Refusal: ``ttl`` is there, and is not a number of seconds.
    """
    ttl = _member(metadata, "ttl")
    if ttl is None:
        return None
    seconds = _as_number(ttl)
    if seconds is None or not 0 < seconds <= _MAX_TTL_SECONDS:
        _refuse(
            "metadata: ttl must be a number of seconds, more than 0 and at most "
            f"{_MAX_TTL_SECONDS}, not {shown(str(ttl))}"
        )
    return math.ceil(seconds * 1000)


def _member(metadata: dict[str, Any], name: str) -> object:
    """A value, given either plainly or as {"is_string": ..., "content": ...}."""
    value: object = metadata.get(name)
    if isinstance(value, dict):
        return cast("dict[str, object]", value).get("content")
    return value


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _require(check: Callable[[object], object], text: str) -> None:
    try:
        check(text)
    except EnSyncValidationError as error:
        raise Refusal(Reason.INVALID, str(error)) from error


def _check_app_id(delivery_to: str) -> None:
    try:
        parse_app_id(delivery_to)
    except EnSyncValidationError as error:
        raise Refusal(Reason.INVALID, f"delivery_to: {error}") from error


def _check_size(publication: Publication) -> None:
    if len(publication.payload) > MAX_PAYLOAD_BYTES:
        _refuse(
            f"payload is too large: {len(publication.payload)} bytes, "
            f"at most {MAX_PAYLOAD_BYTES} are accepted"
        )
    size = sum(len(text.encode()) for text in publication if text)
    if size > _MAX_EVENT_BYTES:
        _refuse(f"the event is too large: {size} bytes, at most {_MAX_EVENT_BYTES} are accepted")


def _check_base64(payload: str) -> None:
    if not payload:
        _refuse("payload is empty; it must be the base64 of an encrypted envelope")
    try:
        decode_base64(payload)
    except ValueError as error:
        raise Refusal(
            Reason.INVALID, "payload is not base64 (standard alphabet, padded)"
        ) from error


def _check_payload_metadata(text: str) -> None:
    value = parse_json_object("payload_metadata", text)
    byte_size: object = value.get("byte_size", 0)
    if not isinstance(byte_size, int) or isinstance(byte_size, bool) or byte_size < 0:
        _refuse("payload_metadata: byte_size must be a number of bytes")
    skeleton = as_object(value.get("skeleton", {}))
    if skeleton is None:
        _refuse("payload_metadata: skeleton must be an object of field names and types")
    if not _SKELETON_TYPES.issuperset(map(str, skeleton.values())):
        _refuse("payload_metadata: the types in skeleton are " + ", ".join(sorted(_SKELETON_TYPES)))


def _refuse(text: str) -> NoReturn:
    raise Refusal(Reason.INVALID, text)
