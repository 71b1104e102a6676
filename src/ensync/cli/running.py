"""Runs a command's async function, and turns how it ends into an exit code and one line."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, cast

import anyio
import typer
from anyio.abc import TaskStatus

from ensync.cli.failures import (
    FAILED,
    INTERRUPTED,
    KEY_REFUSED,
    NOT_PUBLISHED,
    TERMINATED,
    UNREACHABLE,
    WRONG_USE,
    CommandError,
)
from ensync.cli.output import complain
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncError,
    EnSyncPublishError,
    EnSyncValidationError,
)
from ensync.scopes import background_tasks

__all__ = ["Backend", "reason_of", "run_async", "until_interrupted", "user_errors"]

Backend: TypeAlias = Literal["asyncio", "trio"]

# Why a write can fail that is nobody's mistake in here. These errors name no file.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def run_async(function: Callable[[], Awaitable[None]], backend: Backend = "asyncio") -> None:
    """Runs an async function to its end."""
    _check_installed(backend)
    anyio.run(function, backend=backend)


async def until_interrupted(function: Callable[[], Awaitable[None]]) -> None:
    """Runs an async function; Ctrl-C and SIGTERM cancel it in order, wherever it is.

    On trio, a KeyboardInterrupt could come up in the middle of asyncio code.

    Raises:
        CommandError: It was interrupted.
    """
    async with background_tasks() as tasks:
        await tasks.start(_raise_on_signal)
        await function()


async def _raise_on_signal(*, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        if await anext(aiter(signals)) is signal.SIGINT:
            raise CommandError("interrupted", INTERRUPTED)
        raise CommandError("terminated", TERMINATED)


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
        return _code_of(error), reason_of(error)
    if isinstance(error, OSError):
        return _expected_of_the_system(error)
    return None


def _expected_of_the_system(error: OSError) -> tuple[int, str] | None:
    if error.filename is not None:
        return FAILED, f"{error.filename}: {error.strerror}"
    if isinstance(error, BrokenPipeError):
        _forget_standard_output()
        return FAILED, "nobody reads the output any more"
    if error.errno in _NOT_WRITTEN:
        _forget_standard_output()
        return FAILED, f"can't write the output: {error.strerror}"
    return None


def reason_of(error: EnSyncError) -> str:
    """Why something failed. With one recipient that is told without counting recipients."""
    if isinstance(error, EnSyncPublishError):
        failures = [*error.rejected.values(), *error.unknown.values()]
        if len(failures) == 1 and not error.accepted:
            return str(failures[0])
    return str(error)


def _forget_standard_output() -> None:
    # The interpreter flushes it at the end, which would fail once more.
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
