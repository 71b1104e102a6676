"""Text for a terminal (pure): nothing in it can steer the terminal, and counts read well."""

from __future__ import annotations

import json
import re

__all__ = ["counted", "json_text", "printable"]

# What a terminal may obey, or what makes text look like another: the control characters of
# ASCII and of Latin-1, the marks that turn the direction of writing, and what ends a line.
_CONTROLS = "\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
# JSON has written those of ASCII as escapes, and its own line breaks are meant.
_IN_JSON = re.compile(f"[{_CONTROLS}]")
_IN_TEXT = re.compile(f"[\x00-\x09\x0b-\x1f{_CONTROLS}]")


def json_text(value: object, *, indent: int | None = None, encoding: str = "utf-8") -> str:
    """A value as JSON that can be shown: what might steer a terminal is written as an escape.

    Args:
        value: Any JSON value.
        indent: By how much to indent; all in one line without.
        encoding: What the text has to be written in.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=False, separators=separators, indent=indent)
    shown = _IN_JSON.sub(_as_escape, text)
    try:
        shown.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, separators=separators, indent=indent)
    return shown


def printable(text: str) -> str:
    """Text whose control characters are written as escapes; line ends stay."""
    return _IN_TEXT.sub(_as_escape, text)


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 event``, ``2 events``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _as_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
