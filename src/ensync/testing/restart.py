"""An engine that can be stopped and started again while clients hold on to it."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Self

import anyio
import anyio.abc

from ensync.errors import EnSyncValidationError
from ensync.scopes import background_tasks
from ensync.server.apps import ANY_NAME, App, MemoryAppStorage
from ensync.server.local import LocalEngine
from ensync.server.memory import MemoryStore
from ensync.server.retention import Retention
from ensync.server.store import Store
from ensync.testing.faults import Faults
from ensync.testing.listener import bound_socket
from ensync.transports.bridge import open_asyncio_side

__all__ = ["RestartableEngine"]

MANAGED = ("data", "store", "app_storage", "hooks", "port", "websocket_port")


class RestartableEngine(anyio.AsyncContextManagerMixin):
    """A LocalEngine in memory that restarts on the same ports.

        async with RestartableEngine() as engine:
            async with ensync.connect(engine.url, app_key=...) as client:
                await engine.restart()                     # clients reconnect
                await engine.restart(forget_events=True)   # ... and find nothing

    Args:
        options: Options of LocalEngine, but for those that this class is about: data,
            store, app_storage, hooks, port and websocket_port.

    Raises:
        EnSyncValidationError: One of those was given.

    Attributes:
        faults: The faults of this engine; they outlive its restarts.
    """

    def __init__(self, **options: Any) -> None:
        given = [name for name in MANAGED if name in options]
        if given:
            raise EnSyncValidationError(f"RestartableEngine decides by itself about {given[0]}")
        self.faults = Faults()
        self._options = options
        self._apps = MemoryAppStorage()
        self._store: Store = _new_store(options)
        self._port = 0
        self._websocket_port = 0
        self._running: _Run | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        with ExitStack() as held:
            self._hold_ports(held)
            async with self._open():
                yield self

    def _hold_ports(self, held: ExitStack) -> None:
        """Keeps others from getting the engine's ports while it is stopped."""
        if sys.platform != "linux":  # elsewhere the engine could not listen on them either
            return
        sockets = [held.enter_context(bound_socket("127.0.0.1", 0)) for _ in range(2)]
        self._port, self._websocket_port = (each.getsockname()[1] for each in sockets)

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[None]:
        # One asyncio side for all runs: a run that is started while a client is open would
        # else live on that client's side, and end with it.
        async with open_asyncio_side(), background_tasks() as self._tasks:
            await self.start()
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):  # an engine limits the time of its end
                    await self.stop()

    @property
    def engine(self) -> LocalEngine:
        """The engine that is running now.

        Raises:
            RuntimeError: It is stopped.
        """
        if self._running is None:
            raise RuntimeError("this engine is stopped")
        return self._running.engine

    @property
    def url(self) -> str:
        """Where gRPC clients connect to. It stays the same."""
        return f"grpc://127.0.0.1:{self._port}"

    @property
    def websocket_url(self) -> str:
        """Where WebSocket clients connect to. It stays the same."""
        return f"ws://127.0.0.1:{self._websocket_port}"

    @property
    def is_running(self) -> bool:
        """Whether it is running now."""
        return self._running is not None

    def create_app(
        self, name: str, send: Iterable[str] = (ANY_NAME,), receive: Iterable[str] = (ANY_NAME,)
    ) -> App:
        """Makes an app, as ``LocalEngine.create_app``. It outlives restarts."""
        return self.engine.create_app(name, send=send, receive=receive)

    async def start(self) -> None:
        """Starts the engine, on the ports that it had before. Does nothing when it runs."""
        if self._tasks is None:
            raise RuntimeError("this RestartableEngine is not open: use it in an async with")
        if self._running is not None:
            return
        engine = LocalEngine(
            **self._options,
            port=self._port,
            websocket_port=self._websocket_port,
            store=self._store,
            app_storage=self._apps,
            hooks=self.faults,
        )
        run = _Run(engine)
        await self._tasks.start(run.until_stopped, name="ensync restartable engine")
        self._running = run
        self._port, self._websocket_port = _port(engine.url), _port(engine.websocket_url)

    async def stop(self, *, crash: bool = False) -> None:
        """Stops the engine. Does nothing when it is stopped.

        Args:
            crash: Cuts the connections without a word, as a killed process does. Else
                they are told (GOAWAY), and calls under way end first.
        """
        if self._running is None:
            return
        if crash:
            self.faults.abort_connections()
        run, self._running = self._running, None
        await run.stop()

    async def restart(
        self, *, crash: bool = False, forget_events: bool = False, forget_apps: bool = False
    ) -> None:
        """Stops the engine and starts it again.

        Args:
            crash: As for ``stop``.
            forget_events: Starts with no events, as an engine that lost its data.
            forget_apps: Starts with no apps: every app key is refused.
        """
        await self.stop(crash=crash)
        if forget_events:
            await self._store.close()
            self._store = _new_store(self._options)
        if forget_apps:
            self._apps = MemoryAppStorage()
        await self.start()


class _Run:
    """One run of an engine, in a task of its own: who opens its scopes has to close them."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self._stopping = anyio.Event()
        self._stopped = anyio.Event()

    async def until_stopped(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            async with self.engine:
                task_status.started()
                await self._stopping.wait()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        self._stopping.set()
        await self._stopped.wait()


def _new_store(options: dict[str, Any]) -> MemoryStore:
    return MemoryStore(retention=options.get("retention", Retention()))


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
