"""64-bit integers in text (pure)."""

from __future__ import annotations

__all__ = ["fits_int64", "parse_int64"]

_LIMIT = 2**63
_MAX_DIGITS = len(str(_LIMIT))


def fits_int64(value: int) -> bool:
    """Whether a number can be an ``int64`` of the wire."""
    return -_LIMIT <= value < _LIMIT


def parse_int64(text: str) -> int | None:
    """Reads decimal digits with or without a minus sign. None: it is something else."""
    digits = text.removeprefix("-")
    # Checked first: int() takes blanks and foreign digits, and long for a long text.
    if len(digits) > _MAX_DIGITS or not digits.isascii() or not digits.isdigit():
        return None
    value = int(text)
    return value if fits_int64(value) else None
