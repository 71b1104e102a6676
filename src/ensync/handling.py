"""Running a handler over events, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

import anyio

from ensync.event import Event
from ensync.scopes import single_error_bare

__all__ = ["Handler", "HandlerRun"]

T = TypeVar("T")

Handler: TypeAlias = Callable[[Event[T]], Awaitable[object]]


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
            await self._handler(event)
        except Exception as error:  # noqa: BLE001 - the user's; logged, counted and settled
            await self._failed(event, error)
        except BaseException:
            self._cancelled(event)
            raise
        else:
            self._succeeded(event)
        finally:
            self._free.release()
