"""Durations and sizes as people write them on a command line: ``7d``, ``0.5``, ``1GiB``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import typer

__all__ = ["duration", "seconds", "size"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST = 36_500 * _SECONDS["d"]
_SHORTEST_WAIT = 0.1
_BYTES = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
_LARGEST = 1 << 60
# Few enough digits that nothing becomes infinite.
_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]*)", re.ASCII)


def duration(text: str) -> float:
    """Reads a duration, in seconds.

    Raises:
        typer.BadParameter: It is not a number with a unit, or is too long.
    """
    seconds = _read(text, _SECONDS)
    if seconds is None or not 0 < seconds <= _LONGEST:
        raise typer.BadParameter(
            f"{text!r} is no duration. Give a number and a unit out of s, m, h, d and w, such as "
            "12h or 7d: more than 0, and at most 36500d."
        )
    return seconds


def seconds(text: str) -> float:
    """Reads a number of seconds to wait.

    Raises:
        typer.BadParameter: It is no number, too short to wait for, or longer than a day.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not _SHORTEST_WAIT <= number <= _SECONDS["d"]:  # nor is NaN
        raise typer.BadParameter(
            f"{text!r} is no number of seconds from {_SHORTEST_WAIT:g} to {_SECONDS['d']}."
        )
    return number


def size(text: str) -> int:
    """Reads a size, in bytes.

    Raises:
        typer.BadParameter: It is not a number with a unit or without, or is too large.
    """
    found = _read(text, _BYTES)
    if found is None or found > _LARGEST:
        raise typer.BadParameter(
            f"{text!r} is no size. Give a number of bytes, or a number and a unit out of kB, MB, "
            "GB, TB, KiB, MiB, GiB and TiB, such as 500MB or 1GiB: at most 1048576TiB."
        )
    return int(found)


def _read(text: str, units: Mapping[str, int]) -> float | None:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        return None
    by_lower_case = {unit.lower(): factor for unit, factor in units.items()}
    factor = by_lower_case.get(match[2].lower())
    return None if factor is None else float(match[1]) * factor
