"""Requests of the text protocol (PROTOCOL 4) as the engine reads them (pure).

A value can't be told from a field by its looks, so a request is taken only when all
its fields are known, and each is there once. None is ever ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ensync.int64 import parse_int64
from ensync.json_text import strict_json
from ensync.server.refusal import shown
from ensync.websocket_text import Command, WebSocketTextError

__all__ = ["ParsedRequest", "parse_request"]


class ParsedRequest(NamedTuple):
    """A request whose fields are all known, and each there once."""

    command: Command
    fields: Mapping[str, str]

    def text(self, key: str) -> str:
        """The value of a field; empty where an optional one was left out."""
        return self.fields.get(key, "")

    def integer(self, key: str) -> int:
        """The value of a field that holds a 64-bit integer.

        Raises:
            WebSocketTextError: It does not.
        """
        value = parse_int64(self.text(key))
        if value is None:
            raise WebSocketTextError(f"{key} must be a 64-bit whole number")
        return value


class _Grammar(NamedTuple):
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_GRAMMARS: Mapping[str, _Grammar] = {
    Command.CONNECT: _Grammar(("ACCESS_KEY",)),
    Command.PUBLISH: _Grammar(
        ("CLIENT_ID", "EVENT_NAME", "PAYLOAD", "DELIVERY_TO", "METADATA"), ("PAYLOAD_METADATA",)
    ),
    Command.SUBSCRIBE: _Grammar(("CLIENT_ID", "EVENT_NAME")),
    Command.UNSUBSCRIBE: _Grammar(("CLIENT_ID", "EVENT_NAME")),
    Command.ACKNOWLEDGE: _Grammar(("CLIENT_ID", "EVENT_IDEM", "BLOCK", "EVENT_NAME")),
    Command.ROLLBACK: _Grammar(("CLIENT_ID", "EVENT_IDEM", "BLOCK")),
    Command.DEFER: _Grammar(("CLIENT_ID", "EVENT_IDEM", "EVENT_NAME", "DELAY"), ("REASON",)),
    Command.DISCARD: _Grammar(("CLIENT_ID", "EVENT_IDEM", "EVENT_NAME"), ("REASON",)),
    Command.PAUSE: _Grammar(("CLIENT_ID", "EVENT_NAME"), ("REASON",)),
    Command.CONTINUE: _Grammar(("CLIENT_ID", "EVENT_NAME")),
    Command.REPLAY: _Grammar(("CLIENT_ID", "EVENT_IDEM", "EVENT_NAME")),
}

# The Go client's spelling, in the one request where it differs.
_ALIASES: Mapping[tuple[str, str], str] = {(Command.ROLLBACK, "PARTITION_BLOCK"): "BLOCK"}

# Other clients write these as they are, so they may hold a ";".
_JSON_KEYS = frozenset({"METADATA", "PAYLOAD_METADATA"})


def parse_request(text: str) -> ParsedRequest:
    """Reads a request.

    Raises:
        WebSocketTextError: The command is unknown, or a field is unknown, missing, there
            twice, or not of the form ``KEY=:value``.
    """
    name, _, rest = text.partition(";")
    grammar = _GRAMMARS.get(name)
    if grammar is None:
        raise WebSocketTextError(
            f"unknown command {shown(name)}; accepted are {', '.join(_GRAMMARS)}"
        )
    fields = _parse_fields(name, grammar, rest)
    for key in grammar.required:
        if key not in fields:
            raise WebSocketTextError(f"{name} needs {key}")
    return ParsedRequest(Command(name), fields)


def _parse_fields(command: str, grammar: _Grammar, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    position = 0
    while position < len(text):
        raw_key, start = _parse_key(text, position)
        key = _ALIASES.get((command, raw_key), raw_key)
        if key not in grammar.required and key not in grammar.optional:
            raise WebSocketTextError(f"{command} has no field {shown(raw_key)}")
        if key in fields:
            raise WebSocketTextError(f"{command} has {key} twice")
        end = _end_of_value(key, text, start)
        fields[key] = text[start:end]
        position = end + 1
    return fields


def _parse_key(text: str, position: int) -> tuple[str, int]:
    separator = text.find("=:", position)
    key = text[position:separator]
    if separator < 0 or ";" in key:
        raise WebSocketTextError("a field is not of the form KEY=:value")
    return key, separator + 2


def _end_of_value(key: str, text: str, start: int) -> int:
    if key in _JSON_KEYS and start < len(text) and text[start] != ";":
        end = _end_of_json(key, text, start)
    else:
        end = text.find(";", start)
    if end < 0 or end == len(text):
        return len(text)
    if text[end] != ";":
        raise WebSocketTextError(f"{key} goes on after its JSON has ended")
    return end


def _end_of_json(key: str, text: str, start: int) -> int:
    try:
        _, end = strict_json.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise WebSocketTextError(f"{key} is not JSON ({type(error).__name__})") from None
    return end
