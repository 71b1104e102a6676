"""JSON text from Python values, and back (pure).

Stricter than the standard module: no NaN, no keys but text, no lone surrogates, no
bottomless nesting. What is refused is named by its path, and its value is never
shown, since it may be secret.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, NoReturn, cast

from ensync.errors import EnSyncValidationError

__all__ = ["MAX_DEPTH", "as_object", "decode_json", "encode_json", "strict_json", "write_json"]

# Well below what the JSON readers of other languages allow.
MAX_DEPTH = 100
MAX_SHOWN_PATH = 60

SCALARS = frozenset({str, int, float, bool, type(None)})

# A walk has limited the depth by then, so a circle can't get this far.
_encoder = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)


def encode_json(value: object, name: str) -> tuple[bytes, Any]:
    """Writes a value as compact JSON.

    Dataclass instances, pydantic models and enum members may stand anywhere in it.

    Args:
        value: Any JSON value.
        name: How messages call it, such as ``"payload"``.

    Returns:
        The UTF-8 text, and the plain value that it says.

    Raises:
        EnSyncValidationError: Something in it is not JSON; the message says where.
    """
    plain = value if _is_plain(value, MAX_DEPTH) else _to_plain(value, name, MAX_DEPTH)
    try:
        return write_json(plain).encode(), plain
    except ValueError as error:
        _to_plain(plain, name, MAX_DEPTH)  # finds the culprit, and raises with its path
        raise EnSyncValidationError(f"{name} can't be written as JSON: {error}") from error


def write_json(plain: object) -> str:
    """Writes compact JSON of what was checked before: text, numbers, lists and dicts of them."""
    return _encoder.encode(plain)


def _is_plain(value: object, depth: int) -> bool:
    """Whether nothing needs converting, as is nearly always so. Numbers may be NaN yet."""
    kind = type(value)
    if kind in SCALARS:
        return True
    if depth == 0:
        return False
    if kind is dict:
        return _is_plain_dict(value, depth - 1)  # type: ignore[arg-type]
    if kind is list or kind is tuple:
        return _are_plain(value, depth - 1)  # type: ignore[arg-type]
    return False


def _is_plain_dict(value: dict[object, object], depth: int) -> bool:
    for key, item in value.items():
        if type(key) is not str:
            return False
        if type(item) not in SCALARS and not _is_plain(item, depth):
            return False
    return True


def _are_plain(items: Iterable[object], depth: int) -> bool:
    for item in items:  # noqa: SIM110 - a generator costs more, and this is on the hot path
        if type(item) not in SCALARS and not _is_plain(item, depth):
            return False
    return True


def _to_plain(value: object, path: str, depth: int) -> Any:
    """Converts to what JSON has, or raises with the path of what it has not."""
    if depth < 0:
        raise EnSyncValidationError(
            f"{path[:MAX_SHOWN_PATH]}... is nested deeper than {MAX_DEPTH} levels"
        )
    if isinstance(value, Enum):
        return _to_plain(value.value, path, depth)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | int | float):
        return _plain_scalar(value, path)
    if isinstance(value, Mapping):
        return _plain_mapping(cast("Mapping[object, object]", value), path, depth - 1)
    if isinstance(value, list | tuple):
        items = cast("list[object] | tuple[object, ...]", value)
        return [_to_plain(item, f"{path}[{i}]", depth - 1) for i, item in enumerate(items)]
    return _to_plain(_fields(value, path), path, depth)


def _plain_scalar(value: str | float, path: str) -> str | float:
    if isinstance(value, str):
        return _plain_text(value, path)
    if isinstance(value, int):
        return int(value)
    if not math.isfinite(value):
        raise EnSyncValidationError(f"{path} is not finite, which JSON can't say")
    return float(value)


def _plain_text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        # Without the cause, which holds the text.
        raise EnSyncValidationError(
            f"{path} holds a lone surrogate, which is not a character"
        ) from None
    return str.__str__(value)


def _plain_mapping(value: Mapping[object, object], path: str, depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise EnSyncValidationError(
                f"a key of {path} is {type(key).__name__}: keys of JSON objects are str"
            )
        _plain_text(key, f"a key of {path}")
        plain[str.__str__(key)] = _to_plain(item, _below(path, key), depth)
    return plain


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]"


def _fields(value: object, path: str) -> Any:
    """The fields of a dataclass instance or of a pydantic model."""
    if isinstance(value, type):
        raise EnSyncValidationError(f"{path} is the class {value.__name__}, not a JSON value")
    # Recognised by its method, so that pydantic need not be there.
    if hasattr(type(value), "model_dump"):
        return _dumped(value, path)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise EnSyncValidationError(
        f"{path} is {type(value).__name__}: a JSON value is a str, int, float, bool, None, list"
        " or dict, and a dataclass or a pydantic model is accepted too"
    )


def _dumped(model: Any, path: str) -> Any:
    try:
        return model.model_dump(mode="json", by_alias=True)
    except ValueError as error:
        raise EnSyncValidationError(f"{path} is a model that can't be dumped: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


strict_json = json.JSONDecoder(parse_constant=_refuse_constant)
"""Reads JSON as other languages have it: without NaN and the infinities."""


def decode_json(text: str) -> Any:
    """Reads JSON text.

    Raises:
        ValueError: It is not JSON. The message says why and where, and shows nothing of it.
    """
    try:
        value, end = strict_json.raw_decode(text)
        # There is hardly ever anything around it, and looking for blanks there takes its time.
        return value if end == len(text) else strict_json.decode(text)
    except json.JSONDecodeError:
        return _decode_among_blanks(text)
    except RecursionError:
        problem = "nested too deeply"
    raise ValueError(problem)


def _decode_among_blanks(text: str) -> Any:
    try:
        return strict_json.decode(text)
    except json.JSONDecodeError as error:
        # A new error, since this one holds the whole text.
        problem = f"{error.msg} at character {error.pos}"
    except RecursionError:
        problem = "nested too deeply"
    raise ValueError(problem)


def as_object(value: object) -> dict[str, Any] | None:
    """What decode_json() gave, when it is a JSON object, and None otherwise."""
    # Not through cast(), which is a call, and this is on the hot path.
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]
