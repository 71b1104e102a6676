"""What an event says: its payload, its metadata, its name (pure).

Payloads travel as JSON text inside an encrypted envelope (PROTOCOL 5), metadata
as JSON in the clear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from ensync.errors import EnSyncInvalidEventError, EnSyncValidationError
from ensync.json_text import as_object, decode_json, encode_json, write_json
from ensync.wire_text import check_wire_text

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

__all__ = [
    "MAX_METADATA_BYTES",
    "MAX_PAYLOAD_BYTES",
    "EncodedPayload",
    "check_event_name",
    "check_idem",
    "check_reason",
    "decode_metadata",
    "decode_payload",
    "encode_metadata",
    "encode_payload",
    "payload_decoder",
]

T = TypeVar("T")

# Clients assume sealed payloads of at most 4 MiB in messages of at most 6 MiB
# (PROTOCOL 6). Sealing is base64 twice, which makes 16 bytes of 9: 2 MiB become
# 3.6 MiB, and leave room for the keys of a thousand hybrid recipients.
MAX_PAYLOAD_BYTES = 2 * 1024 * 1024
MAX_METADATA_BYTES = 256 * 1024
# A payload may be made of field names alone, and they would travel twice.
MAX_SKELETON_BYTES = 64 * 1024
REMEMBERED_SHAPES = 64
MAX_REMEMBERED_BYTES = 16 * 1024

MAX_NAME_LENGTH = 512
MAX_REASON_LENGTH = 1024
MAX_SHOWN_PROBLEMS = 3

_TYPE_NAMES: Mapping[type, str] = {
    str: "string",
    bool: "boolean",
    float: "double",
    dict: "object",
    list: "array",
    tuple: "array",
    type(None): "null",
}


class EncodedPayload(NamedTuple):
    """A payload ready to be sealed, and what is said about it in the clear."""

    text: bytes
    payload_metadata: str


def encode_payload(value: object) -> EncodedPayload:
    """Writes a payload as JSON, and describes it (PROTOCOL 3).

    The description names the top-level fields and their types, and travels in the
    clear; it is left empty for a payload that is no object or has field names of more than 64 KiB.

    Raises:
        EnSyncValidationError: Something in it is not JSON (the message says where),
            or it has more than 2 MiB.
    """
    text, plain = encode_json(value, "payload")
    _check_size("payload", text, MAX_PAYLOAD_BYTES)
    return EncodedPayload(text, _describe(plain, len(text)))


def _check_size(name: str, text: bytes, limit: int) -> None:
    if len(text) > limit:
        raise EnSyncValidationError(f"{name} is {len(text)} bytes of JSON; the limit is {limit}")


def _describe(plain: object, byte_size: int) -> str:
    fields = as_object(plain) or {}
    # Not by a function for each field: this is on the hot path.
    types = tuple(
        [
            _TYPE_NAMES[type(value)]
            if type(value) is not int
            else ("integer" if -(2**31) <= value < 2**31 else "long")
            for value in fields.values()
        ]
    )
    write = _skeleton if byte_size <= MAX_REMEMBERED_BYTES else _skeleton.__wrapped__
    return f'{{"byte_size":{byte_size},"skeleton":{write(tuple(fields), types)}}}'


# A program publishes objects of a few shapes, over and over.
@lru_cache(REMEMBERED_SHAPES)
def _skeleton(names: tuple[str, ...], types: tuple[str, ...]) -> str:
    text = write_json(dict(zip(names, types, strict=True)))
    return text if len(text.encode()) <= MAX_SKELETON_BYTES else "{}"


def decode_payload(text: bytes) -> Any:
    """Reads a payload's JSON text.

    Raises:
        EnSyncInvalidEventError: It is not JSON. The message shows nothing of it.
    """
    try:
        return decode_json(text.decode())
    except UnicodeDecodeError:
        problem = "not UTF-8"
    except ValueError as error:
        problem = str(error)
    # Outside of the handlers: their errors would keep the text reachable.
    raise EnSyncInvalidEventError(f"the payload is not JSON: {problem}", code="invalid_payload")


@overload
def payload_decoder(payload_type: None) -> Callable[[bytes], Any]: ...
@overload
def payload_decoder(payload_type: type[T]) -> Callable[[bytes], T]: ...


def payload_decoder(payload_type: type[T] | None) -> Callable[[bytes], T | Any]:
    """Makes the function that reads the payloads of one subscription.

    Args:
        payload_type: A dataclass, a TypedDict or a pydantic model that payloads are
            validated into, or None for JSON values as they are.

    Returns:
        A function from JSON text to the payload. It raises EnSyncInvalidEventError,
        naming the fields that are wrong.

    Raises:
        EnSyncValidationError: pydantic is not installed, or can't handle the type.
    """
    if payload_type is None:
        return decode_payload
    adapter = _type_adapter(payload_type)
    type_name = getattr(payload_type, "__name__", repr(payload_type))
    return lambda text: _validated(adapter, text, type_name)


def _type_adapter(payload_type: type[T]) -> TypeAdapter[T]:
    try:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
    except ImportError as error:
        raise EnSyncValidationError(
            "payload_type needs pydantic: pip install 'ensync[pydantic]'", code="missing_extra"
        ) from error
    try:
        adapter = TypeAdapter(payload_type)
        # A name that can't be resolved would otherwise come up with the first event.
        adapter.rebuild(raise_errors=True)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise EnSyncValidationError(
            "payload_type must be a dataclass, a TypedDict or a pydantic model, and the types it"
            f" names must be found in its module: {error.message}"
        ) from error
    return adapter


def _validated(adapter: TypeAdapter[T], text: bytes, type_name: str) -> T:
    from pydantic import ValidationError

    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        problems = _problems(error)
    # Outside of the handler: pydantic's error shows the values of the payload.
    raise EnSyncInvalidEventError(
        f"the payload is not a valid {type_name}: {problems}", code="invalid_payload"
    )


def _problems(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [
        f"payload{''.join(map(_step, detail['loc']))}: {detail['msg']}"
        for detail in details[:MAX_SHOWN_PROBLEMS]
    ]
    hidden = len(details) - len(shown)
    return "; ".join(shown) + (f"; and {hidden} more" if hidden else "")


def _step(key: int | str) -> str:
    return f".{key}" if isinstance(key, str) else f"[{key}]"


def encode_metadata(metadata: Mapping[str, object] | None) -> str:
    """Writes metadata as a JSON object, which travels in the clear.

    Raises:
        EnSyncValidationError: It is not a mapping, something in it is not JSON, or it
            has more than 256 KiB.
    """
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EnSyncValidationError(
            f"metadata must be a mapping with str keys, not {type(metadata).__name__}"
        )
    text, _ = encode_json(metadata, "metadata")
    _check_size("metadata", text, MAX_METADATA_BYTES)
    return text.decode()


def decode_metadata(text: str) -> dict[str, Any]:
    """Reads metadata; none at all, and null as the Go client sends it, are an empty object.

    Raises:
        EnSyncInvalidEventError: It is not a JSON object.
    """
    if not text or text == "{}":
        return {}
    try:
        metadata = decode_json(text)
    except ValueError as error:
        raise _invalid_metadata(f"not JSON: {error}") from error
    if metadata is None:
        return {}
    members = as_object(metadata)
    if members is None:
        raise _invalid_metadata("not a JSON object")
    return members


def _invalid_metadata(problem: str) -> EnSyncInvalidEventError:
    return EnSyncInvalidEventError(f"the metadata is {problem}", code="invalid_metadata")


def check_event_name(name: object) -> str:
    """Checks an event name: 1 to 512 characters without ``;``, controls and outer blanks.

    Raises:
        EnSyncValidationError: It is not one.
    """
    return check_wire_text("event_name", name, minimum=1, maximum=MAX_NAME_LENGTH)


def check_idem(idem: object) -> str:
    """Checks the id of an event: 1 to 512 characters without ``;``, controls and outer blanks.

    Raises:
        EnSyncValidationError: It is not one.
    """
    return check_wire_text("event_idem", idem, minimum=1, maximum=MAX_NAME_LENGTH)


def check_reason(reason: object) -> str:
    """Checks a reason: up to 1,024 characters without ``;``, controls and outer blanks.

    Raises:
        EnSyncValidationError: It is not one.
    """
    return check_wire_text("reason", reason, minimum=0, maximum=MAX_REASON_LENGTH)
