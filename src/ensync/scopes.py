"""Scopes that own tasks and still let a single error out bare."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

__all__ = ["background_tasks", "serving", "single_error_bare", "until_cancelled"]


@asynccontextmanager
async def single_error_bare() -> AsyncIterator[None]:
    """Unwraps an exception group of one, as a task group of ours makes it.

    Two failures at once stay a group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        cause, context = error.__cause__, error.__context__
        try:
            raise error
        finally:
            # The group would otherwise appear as the context of its only member.
            error.__cause__, error.__context__ = cause, context
            del error, cause, context


@asynccontextmanager
async def background_tasks() -> AsyncIterator[TaskGroup]:
    """A task group for tasks that serve the block: they are cancelled when it is left."""
    async with single_error_bare(), anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def serving(serve: Callable[[], Awaitable[object]], name: str) -> AsyncIterator[None]:
    """Runs a task until the block is left, also while that is being cancelled.

    A cancellation from around it reaches the block at once, and the task when the
    block is over: what is done on the way out can still be served.
    """
    scope = anyio.CancelScope(shield=True)

    async def run() -> None:
        with scope:
            await serve()

    async with single_error_bare(), anyio.create_task_group() as tasks:
        tasks.start_soon(run, name=name)
        try:
            yield
        finally:
            scope.cancel()


async def until_cancelled() -> None:
    """Waits for nothing but its end.

    ``anyio.sleep_forever()`` would leave a timer behind on the asyncio side of trio,
    which trio-asyncio keeps until it is due.
    """
    await anyio.Event().wait()
