"""A listener that goes on listening, whatever becomes of a single connection."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

import anyio
from anyio.abc import Listener, SocketListener, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener

__all__ = ["SteadyListener"]

logger = logging.getLogger("ensync")

_AT_ONCE = 64  # connections
_PAUSE = 0.1  # seconds; a process without a free file descriptor gets one back at some time
_WARNING_INTERVAL = 10.0  # seconds

ServeOne: TypeAlias = Callable[[SocketStream], Awaitable[object]]


class SteadyListener(MultiListener[SocketStream]):
    """Serves all of its listeners until it is closed, also when accepting fails meanwhile.

    Args:
        listeners: What listens, for each address. They are its own from now on.
        at_once: How many connections are served at the same time. Others are closed.
    """

    def __init__(
        self, listeners: Sequence[Listener[SocketStream]], at_once: int = _AT_ONCE
    ) -> None:
        super().__init__(listeners)
        self._at_once = at_once
        self._served_now = 0
        self._warned_at = -math.inf

    async def serve(
        self, handler: Callable[[SocketStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        """Accepts connections, and hands each to the handler, which closes it."""
        async with anyio.create_task_group() as own_tasks:
            for listener in cast("Sequence[SocketListener]", self.listeners):
                tasks = task_group or own_tasks
                own_tasks.start_soon(self._accept_all, listener, handler, tasks)

    async def _accept_all(
        self, listener: SocketListener, handler: ServeOne, tasks: TaskGroup
    ) -> None:
        while True:
            try:
                stream = await listener.accept()
            except anyio.ClosedResourceError:
                return
            except (OSError, anyio.BrokenResourceError) as error:
                self._warn("can't accept a connection: %s", error.__cause__ or error)
                await anyio.sleep(_PAUSE)
            else:
                tasks.start_soon(self._serve_one, handler, stream)

    async def _serve_one(self, handler: ServeOne, stream: SocketStream) -> None:
        if self._served_now >= self._at_once:
            self._warn("more than %s connections at once: closing the others", self._at_once)
            await anyio.aclose_forcefully(stream)
            return
        self._served_now += 1
        try:
            await handler(stream)
        finally:
            self._served_now -= 1

    def _warn(self, text: str, what: object) -> None:
        """Logs, but not so often that others could fill the disk by it."""
        now = anyio.current_time()
        if now - self._warned_at >= _WARNING_INTERVAL:
            self._warned_at = now
            logger.warning(text, what)
