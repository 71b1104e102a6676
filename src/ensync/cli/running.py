"""Runs a command's async function, and turns how it ends into an exit code and one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias, cast

import anyio
import typer

from ensync.cli.output import complain
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncError,
    EnSyncPublishError,
    EnSyncValidationError,
)

__all__ = ["EXIT_CODES", "Backend", "CommandError", "run_async", "user_errors"]

Backend: TypeAlias = Literal["asyncio", "trio"]

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


def run_async(function: Callable[[], Awaitable[None]], backend: Backend = "asyncio") -> None:
    """Runs an async function to its end.

    Raises:
        typer.Exit: It failed, and the user has been told.
    """
    with user_errors():
        _check_installed(backend)
        anyio.run(function, backend=backend)


@contextmanager
def user_errors() -> Iterator[None]:
    """Says errors that concern the user in one line, and ends the command with their code."""
    try:
        yield
    except (KeyboardInterrupt, Exception, BaseExceptionGroup) as error:
        told = [_expected(one) for one in _leaves(error)]
        messages = [one for one in told if one is not None]
        if len(messages) < len(told):
            raise
        for _, message in messages:
            complain(message)
        raise typer.Exit(messages[0][0]) from None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for one in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        yield from _leaves(one)


def _expected(error: BaseException) -> tuple[int, str] | None:
    """The exit code and the text for an error; None for one that is a bug of ours."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, CommandError):
        return error.exit_code, str(error)
    if isinstance(error, EnSyncError):
        return _code_of(error), str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return FAILED, f"{error.filename}: {error.strerror}"
    return None


def _code_of(error: EnSyncError) -> int:
    codes: list[tuple[type[EnSyncError], int]] = [
        (EnSyncAuthenticationError, KEY_REFUSED),
        (EnSyncConnectionError, UNREACHABLE),
        (EnSyncPublishError, NOT_PUBLISHED),
        (EnSyncValidationError, WRONG_USE),
    ]
    return next((code for kind, code in codes if isinstance(error, kind)), FAILED)


def _check_installed(backend: Backend) -> None:
    needed = ("trio", "trio_asyncio") if backend == "trio" else ()
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise CommandError(
            "--backend trio needs trio, which is not installed: pip install 'ensync[trio]'",
            WRONG_USE,
        )
