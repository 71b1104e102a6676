"""LocalEngine: an EnSync Engine inside this process."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import asynccontextmanager
from os import PathLike
from typing import Protocol, Self

import anyio

from ensync.errors import EnSyncGenericError, EnSyncValidationError
from ensync.options import check_choice, check_count, check_duration
from ensync.scopes import background_tasks, single_error_bare
from ensync.server.apps import ANY_NAME, App, AppRegistry, AppStorage, MemoryAppStorage
from ensync.server.broker import Broker, Limits, Statistics
from ensync.server.consumer import Credit
from ensync.server.grpc import GrpcOptions, serve_grpc
from ensync.server.grpc_limits import GrpcLimits
from ensync.server.grpc_methods import GENERATIONS
from ensync.server.hooks import DoorHooks
from ensync.server.listening import cannot_listen, host_in_url
from ensync.server.memory import MemoryStore
from ensync.server.retention import Retention
from ensync.server.store import Store
from ensync.server.websocket import serve_websocket
from ensync.transports.bridge import AsyncioSide, open_asyncio_side

__all__ = ["LocalEngine"]

_DEFAULT_RETENTION = Retention()
_TEND_INTERVAL = 5.0  # seconds


class _Door(Protocol):
    port: int

    async def aclose(self) -> None: ...


class LocalEngine(anyio.AsyncContextManagerMixin):
    """Runs an engine for as long as its block is open, on asyncio or trio.

        async with LocalEngine() as engine:
            app = engine.create_app("billing")
            async with ensync.connect(engine.url, app_key=app.app_key) as client:
                ...

    It serves gRPC and WebSocket, and keeps events in memory, or in a file.

    Args:
        data: The file to keep everything in, made if need be. None: in memory.
        host: The address to listen on.
        port: The port for gRPC; 0: any free one.
        websocket_port: The port for WebSocket; 0: any free one.
        tls: Serves both with TLS, by this context, which is made to offer HTTP/2.
        generations: Which gRPC method names to offer, out of "event" and "message".
        multiplex: Sends all events of a gRPC client on its first stream, as newer
            engines do it.
        end_registering_streams: When multiplexing, ends later Subscribe calls at once.
        early_headers: Sends a gRPC subscription's headers when it is registered, not
            with its first event.
        max_concurrent_streams: How many gRPC calls a connection may have under way.
        max_in_flight: How many unsettled events a subscription may have in hand.
        heartbeat_timeout: After how many seconds without a request a client that has no
            subscription is gone.
        retention: Which settled events are kept for replay.
        hooks: Called around all that the doors do, to inject faults.
        store: Where to keep events, instead of a store made for ``data``. It is not
            closed on leaving, so that another engine can go on with it.
        app_storage: Where to keep apps, likewise.

    Raises:
        EnSyncValidationError: An argument is wrong.
        CannotListenError: On entering, the host or a port can't be had.

    Attributes:
        broker: What decides on deliveries, for tests to look into.
        apps: The apps that may connect.
    """

    broker: Broker
    apps: AppRegistry

    def __init__(
        self,
        *,
        data: str | PathLike[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        websocket_port: int = 0,
        tls: ssl.SSLContext | None = None,
        generations: Collection[str] = GENERATIONS,
        multiplex: bool = False,
        end_registering_streams: bool = False,
        early_headers: bool = True,
        max_concurrent_streams: int = 100,
        max_in_flight: int = 1000,
        heartbeat_timeout: float = 90.0,
        retention: Retention = _DEFAULT_RETENTION,
        hooks: DoorHooks | None = None,
        store: Store | None = None,
        app_storage: AppStorage | None = None,
    ) -> None:
        self._data = data
        self._host = host
        self._ports = (
            check_count("port", port, 0),
            check_count("websocket_port", websocket_port, 0),
        )
        self._tls = tls
        self._hooks = DoorHooks() if hooks is None else hooks
        self._heartbeat_timeout = check_duration("heartbeat_timeout", heartbeat_timeout)
        self._retention = retention
        self._store = store
        self._app_storage = app_storage
        self._limits = Limits(credit=Credit(events=check_count("max_in_flight", max_in_flight)))
        check_count("max_concurrent_streams", max_concurrent_streams)
        self._grpc_options = GrpcOptions(
            generations=_checked_generations(generations),
            multiplex=multiplex,
            end_registering_streams=end_registering_streams,
            early_headers=early_headers,
            limits=GrpcLimits(concurrent_streams=max_concurrent_streams),
        )
        self._doors: list[_Door] = []

    @property
    def url(self) -> str:
        """Where gRPC clients connect to, such as ``grpc://127.0.0.1:50051``."""
        return self._url_of("grpc", 0)

    @property
    def websocket_url(self) -> str:
        """Where WebSocket clients connect to, such as ``ws://127.0.0.1:8082``."""
        return self._url_of("ws", 1)

    def create_app(
        self,
        name: str,
        send: Iterable[str] = (ANY_NAME,),
        receive: Iterable[str] = (ANY_NAME,),
    ) -> App:
        """Makes an app, with its keys. The engine does not keep the two secret ones.

        Args:
            name: What people call it; not in use yet.
            send: The event names it may publish, ``"*"`` for all.
            receive: The event names it may subscribe to, ``"*"`` for all.

        Raises:
            EnSyncValidationError: An argument is wrong, or the name is in use.
        """
        return self.apps.create(name, send=send, receive=receive)

    async def remove_app(self, app_id: str) -> None:
        """Forgets an app and disconnects its clients.

        Raises:
            EnSyncValidationError: There is no such app.
        """
        self.apps.remove(app_id)
        await self.broker.disconnect_app(app_id)

    def statistics(self) -> Statistics:
        """A snapshot of what the engine has done and is doing."""
        return self.broker.statistics()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with single_error_bare(), open_asyncio_side() as side, self._open_store() as store:
            self.broker = Broker(
                store,
                self.apps,
                limits=self._limits,
                heartbeat_timeout=self._heartbeat_timeout,
                clock=anyio.current_time,
            )
            async with background_tasks() as tasks:
                tasks.start_soon(store.run)
                tasks.start_soon(self._tend)
                async with self._open_doors(side):
                    yield self

    @asynccontextmanager
    async def _open_store(self) -> AsyncGenerator[Store]:
        store, app_storage = self._store, self._app_storage
        if store is None:
            store, own_app_storage = await _new_store(self._data, self._retention)
            app_storage = app_storage or own_app_storage
        self.apps = AppRegistry(app_storage)
        try:
            yield store
        finally:
            if self._store is None:
                with anyio.CancelScope(shield=True):
                    await store.close()

    @asynccontextmanager
    async def _open_doors(self, side: AsyncioSide) -> AsyncGenerator[None]:
        self._doors.clear()
        try:
            await side.run(self._listen, side)
            yield
        finally:
            with anyio.CancelScope(shield=True):  # each door limits its time
                await side.run(self._stop)

    async def _listen(self, side: AsyncioSide) -> None:
        port, websocket_port = self._ports
        with cannot_listen("gRPC", self._host, port):
            grpc_door = await serve_grpc(
                side,
                self.broker,
                host=self._host,
                port=port,
                tls=self._tls,
                hooks=self._hooks,
                options=self._grpc_options,
            )
        self._doors.append(grpc_door)
        with cannot_listen("WebSocket", self._host, websocket_port):
            websocket_door = await serve_websocket(
                self.broker,
                host=self._host,
                port=websocket_port,
                tls=self._tls,
                hooks=self._hooks,
            )
        self._doors.append(websocket_door)

    async def _stop(self) -> None:
        await self.broker.shut_down()
        async with anyio.create_task_group() as tasks:
            for door in self._doors:
                tasks.start_soon(door.aclose)

    async def _tend(self) -> None:
        while True:
            await anyio.sleep(_TEND_INTERVAL)
            await self.broker.tend()

    def _url_of(self, scheme: str, door: int) -> str:
        if not self._doors:
            raise EnSyncGenericError(
                "this engine is not running: use it inside its 'async with' block",
                code="not_running",
            )
        secure = "s" if self._tls else ""
        return f"{scheme}{secure}://{host_in_url(self._host)}:{self._doors[door].port}"


async def _new_store(
    data: str | PathLike[str] | None, retention: Retention
) -> tuple[Store, AppStorage]:
    if data is None:
        return MemoryStore(retention=retention), MemoryAppStorage()
    from ensync.server.sqlite import open_sqlite

    return await open_sqlite(data, retention)


def _checked_generations(generations: Collection[str]) -> tuple[str, ...]:
    if isinstance(generations, str) or not generations:
        raise EnSyncValidationError('generations must be a tuple such as ("event", "message")')
    return tuple(check_choice("generations", name, GENERATIONS) for name in generations)
