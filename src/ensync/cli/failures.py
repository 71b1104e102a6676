"""How commands fail: exit codes, and the error whose text is for the user."""

from __future__ import annotations

from typing import Final

__all__ = [
    "EXIT_CODES",
    "FAILED",
    "INTERRUPTED",
    "KEY_REFUSED",
    "NOT_PUBLISHED",
    "UNREACHABLE",
    "WRONG_USE",
    "CommandError",
]

FAILED: Final = 1
WRONG_USE: Final = 2
UNREACHABLE: Final = 3
KEY_REFUSED: Final = 4
NOT_PUBLISHED: Final = 5
INTERRUPTED: Final = 130

EXIT_CODES = """Exit codes: 0 done, 1 failed, 2 wrong use, 3 engine not reachable,
4 app key refused, 5 not every event was published, 130 interrupted."""


class CommandError(Exception):
    """A command can't do what it was asked to. The text is for its user."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
