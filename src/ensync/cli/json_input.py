"""JSON as people give it to a command, and what to tell them when it is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ensync.cli.failures import WRONG_USE, CommandError
from ensync.json_text import as_object, decode_json

__all__ = ["json_argument", "json_file", "json_line", "json_object"]


def json_argument(text: str) -> Any:
    """A payload from the command line.

    Raises:
        CommandError: It is not JSON.
    """
    try:
        return json_line(text)
    except ValueError as error:
        raise CommandError(
            f"the payload is not JSON: {error}{_quotes_missing(text)}", WRONG_USE
        ) from error


def json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object from the command line.

    Raises:
        CommandError: It is none.
    """
    try:
        value = as_object(json_line(text))
    except ValueError as error:
        raise CommandError(f"{what} is not JSON: {error}", WRONG_USE) from error
    if value is None:
        raise CommandError(f"{what} must be a JSON object", WRONG_USE)
    return value


def json_file(file: Path) -> Any:
    """What a file holds.

    Raises:
        CommandError: It can't be read, or is not JSON.
    """
    try:
        return json_line(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", WRONG_USE) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 text", WRONG_USE) from error
    except ValueError as error:
        raise CommandError(f"{file} is not JSON: {error}", WRONG_USE) from error


def json_line(text: str) -> Any:
    """A JSON value.

    Raises:
        ValueError: It is none. The message says why, and shows nothing of it.
    """
    try:
        return decode_json(text)
    except ValueError as error:
        # Python's advice is for programs.
        if "set_int_max_str_digits" in str(error):
            limit = sys.get_int_max_str_digits()
            raise ValueError(f"a number in it has more than {limit} digits") from None
        raise


def _quotes_missing(text: str) -> str:
    # A shell takes away the quotes that are not inside of others.
    return """. A string needs quotes of its own: '"hello"'""" if text[:1].isalpha() else ""
