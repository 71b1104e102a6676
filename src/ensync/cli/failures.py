"""How commands fail: exit codes, and the error whose text is for the user."""

from __future__ import annotations

from typing import Final

__all__ = [
    "EXIT_CODES",
    "FAILED",
    "INTERRUPTED",
    "KEY_REFUSED",
    "NOTHING_CAME",
    "NOT_PUBLISHED",
    "TERMINATED",
    "UNREACHABLE",
    "WRONG_USE",
    "CommandError",
]

FAILED: Final = 1
WRONG_USE: Final = 2
UNREACHABLE: Final = 3
KEY_REFUSED: Final = 4
NOT_PUBLISHED: Final = 5
NOTHING_CAME: Final = 6
INTERRUPTED: Final = 130
TERMINATED: Final = 143  # as shells say it of a process that SIGTERM ended

EXIT_CODES = """Exit codes: 0 done, 1 failed, 2 wrong use, 3 engine not reachable,
4 app key refused, 5 not every event was published, 6 no event came in time,
130 interrupted, 143 terminated."""


class CommandError(Exception):
    """A command can't do what it was asked to. The text is for its user."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
