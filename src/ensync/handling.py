"""Running a handler over events, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar, cast

import anyio

from ensync.errors import EnSyncValidationError
from ensync.event import Event
from ensync.scopes import single_error_bare

__all__ = ["Handler", "HandlerRun", "check_handler"]

T = TypeVar("T")

Handler: TypeAlias = Callable[[Event[T]], Awaitable[object]]


def check_handler(handler: object) -> None:
    """Checks that a handler can be called. Whether it is async is seen when it is.

    Raises:
        EnSyncValidationError: It can't.
    """
    if not callable(handler):
        raise _no_handler(type(handler).__name__)


def _no_handler(what: str) -> EnSyncValidationError:
    return EnSyncValidationError(
        f"handler must be an async function that takes an event, and this is {what}"
    )


class HandlerRun(Generic[T]):
    """One call of ``for_each``."""

    def __init__(
        self,
        handler: Handler[T],
        *,
        concurrency: int,
        take: Callable[[], Awaitable[Event[T] | None]],
        succeeded: Callable[[Event[T]], None],
        failed: Callable[[Event[T], Exception], Awaitable[None]],
        cancelled: Callable[[Event[T]], None],
    ) -> None:
        self._handler = handler
        self._free = anyio.Semaphore(concurrency)
        self._take = take
        self._succeeded = succeeded
        self._failed = failed
        self._cancelled = cancelled

    async def until_the_end(self) -> None:
        async with single_error_bare(), anyio.create_task_group() as tasks:
            while True:
                await self._free.acquire()
                event = await self._take()
                if event is None:
                    return
                tasks.start_soon(self._handle, event)

    async def _handle(self, event: Event[T]) -> None:
        try:
            is_async = await self._run(event)
        except Exception as error:  # noqa: BLE001 - the user's; logged, counted and settled
            await self._failed(event, error)
        except BaseException:
            self._cancelled(event)
            raise
        else:
            if not is_async:
                self._cancelled(event)
                raise _no_handler("one that is not async")
            self._succeeded(event)
        # Not after what was raised, which ends all of it.
        self._free.release()

    async def _run(self, event: Event[T]) -> bool:
        """Whether the handler is async, as it has to be."""
        result = cast("object", self._handler(event))
        if not isinstance(result, Awaitable):
            return False
        await result
        return True
