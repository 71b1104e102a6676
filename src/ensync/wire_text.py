"""What a text must be like to travel in a field of either transport (pure)."""

from __future__ import annotations

import unicodedata

from ensync.errors import EnSyncValidationError

__all__ = ["check_wire_text"]

# Control characters, lone surrogates, and the line and paragraph separators.
REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check_wire_text(name: str, text: object, *, minimum: int, maximum: int) -> str:
    """Checks a name, an id or a reason.

    The WebSocket grammar has no quoting, so a ``;`` in a value could forge a
    field (PROTOCOL 4). It is refused for gRPC too: a program must not depend on the
    transport. The message never shows the text, which may be a key.

    Args:
        name: How the message calls the argument.
        text: What was given.
        minimum: The fewest characters.
        maximum: The most characters.

    Raises:
        EnSyncValidationError: It is not such a text.
    """
    if not isinstance(text, str):
        raise EnSyncValidationError(f"{name} must be a str, not {type(text).__name__}")
    if not minimum <= len(text) <= maximum:
        raise EnSyncValidationError(
            f"{name} must have {minimum} to {maximum} characters, not {len(text)}"
        )
    if text.strip() != text:
        raise EnSyncValidationError(f"{name} must not begin or end with blanks")
    if ";" in text or _has_refused_character(text):
        raise EnSyncValidationError(f"{name} must not contain ';' or control characters")
    return text


def _has_refused_character(text: str) -> bool:
    if text.isascii() and text.isprintable():  # nearly every text, and quickly seen
        return False
    return any(unicodedata.category(character) in REFUSED_CATEGORIES for character in text)
