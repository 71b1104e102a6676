"""A user's program over a scripted engine: two subscriptions, and calls from other tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup

from ensync.client import EnSyncClient, make_client
from ensync.connection import ClientState, SessionSettings
from ensync.crypto import SecretKey, seal
from ensync.errors import EnSyncError
from ensync.options import Reconnect
from ensync.scopes import serving
from ensync.session import Session
from ensync.subscription import Subscription
from ensync.transports.base import Delivery
from ensync.transports.bridge import AsyncioSide
from tests.unit.scripted_link import ScriptedEngine

__all__ = [
    "BACK_OFF",
    "BUSY",
    "CONNECT_TIMEOUT",
    "HEARTBEAT",
    "KEPT",
    "NO_SIDE",
    "SECRET",
    "Program",
    "event_of",
]

BUSY, KEPT, NEW = "busy", "kept", "new"
BACK_OFF, CONNECT_TIMEOUT, HEARTBEAT = 200.0, 100.0, 10.0
SETTINGS = SessionSettings(
    connect_timeout=CONNECT_TIMEOUT,
    request_timeout=2_000,
    heartbeat_interval=HEARTBEAT,
    drain_timeout=10_000,
    reconnect=Reconnect(initial=BACK_OFF, maximum=BACK_OFF),
)
SECRET = SecretKey.parse("A" * 43 + "=")
NO_SIDE = AsyncioSide(cast("Any", None))  # nothing here is asyncio code


def event_of(name: str, number: int) -> Delivery:
    """An event whose id, block and payload are its number."""
    payload = seal(str(number).encode(), SECRET.app_id)
    return Delivery(str(number), name, payload, number, "{}", "")


class Program:
    """Connects, subscribes to two names, pauses one, and stays until it is told to leave.

    Attributes:
        told: The errors that its calls, or its loop, got.
    """

    def __init__(self, *, streams_are_apart: bool = True) -> None:
        self.engine = ScriptedEngine(SECRET.app_id, streams_are_apart=streams_are_apart)
        self.session = Session(NO_SIDE, self.engine.open_link, "key-of-app", SETTINGS, lambda: 1.0)
        self.client: EnSyncClient = make_client(self.session, SECRET)
        self.at_work, self.leave = anyio.Event(), anyio.Event()
        self.told: list[EnSyncError] = []
        self.seen: list[int] = []
        self.names = {BUSY, KEPT}
        self.paused = {KEPT}
        self._numbers = count()
        self._scope = anyio.CancelScope()
        self._calls: TaskGroup
        self.busy: Subscription[Any]
        self.kept: Subscription[Any]
        self._over = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Program]:
        """A scope for its tasks; in the end, whatever it does, it leaves."""
        async with anyio.create_task_group() as self._calls:
            yield self
            self.leave.set()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Program]:
        """The same, with the program at work."""
        async with self.running():
            self.start()
            await self.at_work.wait()
            yield self

    def start(self) -> None:
        self._calls.start_soon(self._run)

    async def _run(self) -> None:
        try:
            with self._scope:
                await self.session.open()
                async with serving(self.session.run, name="session"):
                    await self._work()
        except EnSyncError as error:
            self.told.append(error)
        finally:
            self._over.set()

    async def _work(self) -> None:
        async with (
            self.client.subscribe(BUSY) as self.busy,
            self.client.subscribe(KEPT) as self.kept,
            anyio.create_task_group() as loops,
        ):
            await self.kept.pause()
            loops.start_soon(self._listen, self.busy)
            self.at_work.set()
            await self.leave.wait()
            loops.cancel_scope.cancel()

    async def _listen(self, subscription: Subscription[Any]) -> None:
        try:
            async for event in subscription:
                self.seen.append(event.payload)
        except EnSyncError as error:
            self.told.append(error)
            self.names.discard(subscription.event_name)

    # Calls of the user, from tasks of their own

    def call(self, function: Callable[[], Awaitable[None]]) -> None:
        self._calls.start_soon(self._note, function)

    async def _note(self, function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except EnSyncError as error:
            self.told.append(error)

    def cancel(self) -> None:
        self._scope.cancel()

    async def publish(self, timeout: float | None = None) -> None:
        await self.client.publish(BUSY, [SECRET.app_id], "x", timeout=timeout)

    async def subscribe(self, name: str = NEW) -> None:
        async with self.client.subscribe(name):
            self.names.add(name)
            await self.leave.wait()

    async def unsubscribe(self) -> None:
        await self.at_work.wait()
        await self.kept.unsubscribe()
        self.names.discard(KEPT)
        self.paused.discard(KEPT)

    async def pause(self) -> None:
        await self.at_work.wait()
        await self.busy.pause()
        self.paused.add(BUSY)

    async def resume(self) -> None:
        await self.at_work.wait()
        await self.kept.resume()
        self.paused.discard(KEPT)

    # In the end

    async def all_is_well(self) -> None:
        """The engine answers everything, for longer than anything here lasts."""
        self.engine.heal()
        await anyio.sleep(5 * BACK_OFF)

    async def check_that_it_serves(self) -> None:
        assert self.session.state is ClientState.CONNECTED
        if not self.leave.is_set():
            assert self.engine.registered == self.names == set(self.session.subscriptions.names)
            assert self.engine.paused == self.paused
        number = next(self._numbers)
        flows = BUSY in self.names - self.paused
        sent = self.engine.deliver([event_of(BUSY, number)])
        await anyio.wait_all_tasks_blocked()
        assert sent == flows
        assert self.seen[-1:] == [number] * flows
