"""The text protocol that is spoken over WebSocket (PROTOCOL 4), as pure functions.

A request is ``COMMAND;KEY=:value;KEY=:value``, what the engine says is a mark and
a text, such as ``+PASS:`` and ``-FAIL:``. The grammar has no quoting, so both
directions see to it that no value can pass for a field: what we write never has
a ``;`` inside a value, and what we read has only fields that are known, once each.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ensync.errors import EnSyncValidationError
from ensync.int64 import parse_int64
from ensync.json_text import strict_json
from ensync.transports.base import (
    Acknowledge,
    Continue,
    Defer,
    Delivery,
    Discard,
    Identity,
    Outcome,
    Pause,
    Publish,
    Replay,
    Request,
    Unsubscribe,
)
from ensync.transports.records import parse_replay_data
from ensync.wire_text import check_wire_text

__all__ = [
    "MAX_MESSAGE_BYTES",
    "PING",
    "PONG",
    "Command",
    "FrameKind",
    "ServerFrame",
    "WebSocketTextError",
    "encode_connect",
    "encode_due",
    "encode_identity",
    "encode_record",
    "encode_request",
    "encode_subscribe",
    "parse_frame",
    "parse_identity",
    "parse_key_values",
    "read_outcome",
]

MAX_MESSAGE_BYTES = 6 * 1024 * 1024
"""What existing engines and clients take for the largest message."""

PING = "PING"
PONG = "PONG"

_MAX_VALUE_LENGTH = MAX_MESSAGE_BYTES
_DUE_KEY = "deliveryTime"


class WebSocketTextError(ValueError):
    """A frame breaks the grammar. The message says how, and shows no value."""


class Command(enum.StrEnum):
    """What a request begins with."""

    CONNECT = "CONN"
    PUBLISH = "PUB"
    SUBSCRIBE = "SUB"
    UNSUBSCRIBE = "UNSUB"
    ACKNOWLEDGE = "ACK"
    ROLLBACK = "ROLLBACK"
    DEFER = "DEFER"
    DISCARD = "DISCARD"
    PAUSE = "PAUSE"
    CONTINUE = "CONTINUE"
    REPLAY = "REPLAY"


# Requests, as a client writes them


def encode_connect(app_key: str) -> str:
    """Writes the request that authenticates.

    Raises:
        EnSyncValidationError: The key could forge a field. The message does not show it.
    """
    return f"{Command.CONNECT};ACCESS_KEY=:{_clean('app_key', app_key)}"


def encode_subscribe(client_id: str, event_name: str) -> str:
    """Writes the request that registers an interest.

    Raises:
        EnSyncValidationError: The name could forge a field.
    """
    return _addressed(Command.SUBSCRIBE, client_id, event_name)


def encode_request(client_id: str, request: Request) -> str:
    """Writes a request of the port.

    Raises:
        EnSyncValidationError: A name, an id, a reason or a payload could forge a field,
            or the request is too large or is none that is said in text.
    """
    encode = _ENCODERS.get(type(request))
    if encode is None:
        raise EnSyncValidationError(f"{type(request).__name__} is not said in text")
    text = encode(client_id, request)
    # No character takes more than four bytes.
    if len(text) * 4 > MAX_MESSAGE_BYTES and len(text.encode()) > MAX_MESSAGE_BYTES:
        raise EnSyncValidationError(
            f"the request is too large: a message has at most {MAX_MESSAGE_BYTES} bytes"
        )
    return text


def _encode_publish(client_id: str, request: Publish) -> str:
    text = (
        f"{_addressed(Command.PUBLISH, client_id, request.event_name)}"
        f";PAYLOAD=:{_clean('payload', request.payload)}"
        f";DELIVERY_TO=:{_clean('recipient', request.recipient)}"
        f";METADATA=:{_json('metadata', request.metadata)}"
    )
    if request.payload_metadata is None:
        return text
    return f"{text};PAYLOAD_METADATA=:{_json('payload_metadata', request.payload_metadata)}"


def _encode_acknowledge(client_id: str, request: Acknowledge) -> str:
    return (
        f"{Command.ACKNOWLEDGE};CLIENT_ID=:{client_id};EVENT_IDEM=:{_idem(request.idem)}"
        f";BLOCK=:{request.block:d};EVENT_NAME=:{_name(request.event_name)}"
    )


def _encode_defer(client_id: str, request: Defer) -> str:
    start = _of_event(Command.DEFER, client_id, request)
    return f"{start};DELAY=:{request.delay_ms:d};REASON=:{_reason(request.reason)}"


def _encode_discard(client_id: str, request: Discard) -> str:
    return f"{_of_event(Command.DISCARD, client_id, request)};REASON=:{_reason(request.reason)}"


def _encode_replay(client_id: str, request: Replay) -> str:
    return _of_event(Command.REPLAY, client_id, request)


def _encode_pause(client_id: str, request: Pause) -> str:
    start = _addressed(Command.PAUSE, client_id, request.event_name)
    return f"{start};REASON=:{_reason(request.reason)}"


def _encode_continue(client_id: str, request: Continue) -> str:
    return _addressed(Command.CONTINUE, client_id, request.event_name)


def _encode_unsubscribe(client_id: str, request: Unsubscribe) -> str:
    return _addressed(Command.UNSUBSCRIBE, client_id, request.event_name)


_ENCODERS: Mapping[type[Request], Callable[[str, Any], str]] = {
    Publish: _encode_publish,
    Acknowledge: _encode_acknowledge,
    Defer: _encode_defer,
    Discard: _encode_discard,
    Replay: _encode_replay,
    Pause: _encode_pause,
    Continue: _encode_continue,
    Unsubscribe: _encode_unsubscribe,
}


def _addressed(command: Command, client_id: str, event_name: str) -> str:
    return f"{command};CLIENT_ID=:{client_id};EVENT_NAME=:{_name(event_name)}"


def _of_event(command: Command, client_id: str, request: Defer | Discard | Replay) -> str:
    return (
        f"{command};CLIENT_ID=:{client_id};EVENT_IDEM=:{_idem(request.idem)}"
        f";EVENT_NAME=:{_name(request.event_name)}"
    )


def _reason(reason: str) -> str:
    return _clean("reason", reason)


def _name(event_name: str) -> str:
    return _clean("event_name", event_name)


def _idem(idem: str) -> str:
    return _clean("event_idem", idem)


def _clean(name: str, text: str) -> str:
    return check_wire_text(name, text, minimum=0, maximum=_MAX_VALUE_LENGTH)


def _json(name: str, text: str) -> str:
    # In JSON both marks stand inside strings only, where an escape says the same. An engine
    # that knows nothing of JSON then finds no field in it either.
    escaped = text.replace(";", "\\u003b").replace("=:", "=\\u003a")
    try:
        escaped.encode()
    except UnicodeEncodeError:
        raise EnSyncValidationError(
            f"{name} holds a lone surrogate, which is not a character"
        ) from None
    return escaped


# What the engine says


class FrameKind(enum.Enum):
    """What a text from the engine is, by the mark that it begins with."""

    PASS = "+PASS"  # noqa: S105 - no password
    FAIL = "-FAIL"
    REPLAY = "+REPLAY"
    RECORD = "+RECORD"
    PING = PING

    def frame(self, text: str) -> str:
        """Writes a frame of this kind."""
        return f"{self.value}:{text}"


class ServerFrame(NamedTuple):
    """A text from the engine, without its mark."""

    kind: FrameKind
    text: str


_KINDS: Mapping[str, FrameKind] = {kind.value: kind for kind in FrameKind}


def parse_frame(text: str) -> ServerFrame:
    """Tells what a text from the engine is.

    Raises:
        WebSocketTextError: It begins with none of the marks.
    """
    mark, _, rest = text.partition(":")
    kind = _KINDS.get(mark)
    if kind is None:
        raise WebSocketTextError("a message that is neither a reply nor an event")
    return ServerFrame(kind, rest)


def read_outcome(request: Request, frame: ServerFrame) -> Outcome:
    """Reads the reply to a request of the port.

    Raises:
        WebSocketTextError: It is the reply to another request.
        EnSyncInvalidEventError: It replays something that is no event.
    """
    kind, text = frame
    if kind is FrameKind.FAIL:
        return Outcome(False, text)
    if isinstance(request, Replay):
        _expect(kind, FrameKind.REPLAY, request)
        delivery = parse_replay_data(text, event_name=request.event_name, idem=request.idem)
        if delivery.idem != request.idem:
            raise WebSocketTextError("the replay of another event than was asked for")
        return Outcome(True, delivery=delivery)
    _expect(kind, FrameKind.PASS, request)
    if isinstance(request, Publish):
        return Outcome(True, idem=_published_idem(text))
    if isinstance(request, Defer):
        return Outcome(True, text, due_ms=_parse_due(text))
    return Outcome(True, text)


def _published_idem(text: str) -> str:
    idem = text.strip()
    try:
        return check_wire_text("idem", idem, minimum=1, maximum=_MAX_VALUE_LENGTH)
    except EnSyncValidationError as error:
        raise WebSocketTextError(f"a reply to PUB that names no event: {error}") from error


def _expect(kind: FrameKind, expected: FrameKind, request: Request) -> None:
    if kind is not expected:
        raise WebSocketTextError(f"{kind.value} in reply to {type(request).__name__}")


def parse_identity(frame: ServerFrame) -> Identity:
    """Reads the good reply to CONN.

    Raises:
        WebSocketTextError: It names no client, or no app, or could forge a field.
    """
    if frame.kind is not FrameKind.PASS:
        raise WebSocketTextError(f"{frame.kind.value} in reply to CONN")
    values = parse_key_values(frame.text)
    client_id, app_id = values.pop("clientId", ""), values.pop("clientHash", "")
    try:
        check_wire_text("clientId", client_id, minimum=1, maximum=_MAX_VALUE_LENGTH)
        check_wire_text("clientHash", app_id, minimum=1, maximum=_MAX_VALUE_LENGTH)
    except EnSyncValidationError as error:
        raise WebSocketTextError(f"a reply to CONN that names no client: {error}") from error
    return Identity(client_id, app_id, values)


def encode_identity(client_id: str, app_id: str) -> str:
    """Writes the text of the good reply to CONN."""
    return f"{{clientId={client_id},clientHash={app_id}}}"


def encode_due(due_ms: int) -> str:
    """Writes the text of our good reply to DEFER."""
    return f"{{{_DUE_KEY}={due_ms}}}"


def _parse_due(text: str) -> int | None:
    # Other engines say other things here, and an unknown time is no failure.
    return parse_int64(parse_key_values(text).get(_DUE_KEY, ""))


def parse_key_values(text: str) -> dict[str, str]:
    """Reads ``{key=value,key=value}``; the first of a repeated key counts.

    Values may hold ``=``, as base64 does. An item without one is skipped: an engine may
    say more than we know.
    """
    values: dict[str, str] = {}
    inner = text.strip().removeprefix("{").removesuffix("}")
    for item in inner.split(","):
        key, separator, value = item.partition("=")
        if separator:
            values.setdefault(key.strip(), value.strip())
    return values


def encode_record(delivery: Delivery) -> str:
    """Writes an event as the JSON of a record, its metadata as an object where it is JSON."""
    fields = {
        "name": delivery.event_name,
        "idem": delivery.idem,
        "block": delivery.block,
        "payload": delivery.payload,
        "loggedAt": delivery.logged_at_ms,
        "sender": delivery.sender,
    }
    metadata = delivery.metadata if _is_json(delivery.metadata) else json.dumps(delivery.metadata)
    # Put in as it is, so that recipients get the numbers and the order that were published.
    return f'{json.dumps(fields)[:-1]}, "metadata": {metadata}}}'


def _is_json(text: str) -> bool:
    try:
        strict_json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
