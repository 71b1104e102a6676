"""A door with a broker behind it, and clients that say just what a test tells them to."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ensync import websocket_socket
from ensync.scopes import background_tasks
from ensync.server.apps import App, AppRegistry, MemoryAppStorage
from ensync.server.broker import Broker, Limits
from ensync.server.hooks import DoorHooks
from ensync.server.memory import MemoryStore
from ensync.server.websocket import WebSocketDoor, WebSocketLimits, serve_websocket
from ensync.transports.bridge import AsyncioSide, open_asyncio_side

__all__ = ["OpenDoor", "RawClient", "WatchedBroker", "open_door"]

PAYLOAD = b64encode(b"an envelope").decode()


@dataclass
class RawClient:
    """A WebSocket without any manners."""

    side: AsyncioSide
    socket: ClientConnection
    app: App
    client_id: str = ""
    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def send(self, *messages: str | bytes) -> None:
        async def send() -> None:
            for message in messages:
                await self.socket.send(message)

        await self.side.run(send)

    async def receive(self) -> str:
        """The next message, whatever it is."""
        with anyio.fail_after(10):
            message = await self.side.run(self.socket.recv)
        assert isinstance(message, str)
        return message

    async def reply(self) -> str:
        """The next reply; events before it are put by."""
        while True:
            message = await self.receive()
            if not message.startswith("+RECORD:"):
                return message
            self.records.append(json.loads(message.removeprefix("+RECORD:")))

    async def record(self) -> dict[str, Any]:
        """The next event."""
        if not self.records:
            message = await self.receive()
            assert message.startswith("+RECORD:"), message
            self.records.append(json.loads(message.removeprefix("+RECORD:")))
        return self.records.pop(0)

    async def ask(self, text: str) -> str:
        await self.send(text)
        return await self.reply()

    async def connect(self) -> None:
        reply = await self.ask(f"CONN;ACCESS_KEY=:{self.app.app_key}")
        assert reply.startswith("+PASS:{clientId="), reply
        self.client_id = reply.removeprefix("+PASS:{clientId=").split(",")[0]

    async def command(self, command: str, **fields: object) -> str:
        """Sends a command with this client's id and waits for the reply."""
        return await self.ask(self.text(command, **fields))

    def text(self, command: str, **fields: object) -> str:
        pairs = {"CLIENT_ID": self.client_id, **fields}
        return ";".join([command, *(f"{key}=:{value}" for key, value in pairs.items())])

    def publication(self, **fields: object) -> str:
        pairs = {"EVENT_NAME": "n", "PAYLOAD": PAYLOAD, "DELIVERY_TO": self.app.app_id}
        return self.text("PUB", **{**pairs, "METADATA": "{}", **fields})

    async def publish(self, **fields: object) -> str:
        """Publishes to its own app; returns the id."""
        reply = await self.ask(self.publication(**fields))
        assert reply.startswith("+PASS:"), reply
        return reply.removeprefix("+PASS:")

    async def closed(self) -> ConnectionClosed:
        """Reads to the end, and returns how it ended."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as error:
            return error


class WatchedBroker(Broker):
    """Lets a test wait for what connections tell the broker by themselves."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.seen_alive: set[str] = set()
        self._told = anyio.Event()

    async def connection_closed(self, connection: Hashable) -> None:
        await super().connection_closed(connection)
        self._told.set()

    def heartbeat(self, client_id: str) -> None:
        super().heartbeat(client_id)
        self.seen_alive.add(client_id)
        self._told.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not is_so():
                self._told = anyio.Event()
                await self._told.wait()


@dataclass
class OpenDoor:
    side: AsyncioSide
    broker: WatchedBroker
    apps: AppRegistry
    door: WebSocketDoor
    app: App

    def url(self, path: str = "/message") -> str:
        return f"ws://127.0.0.1:{self.door.port}{path}"

    @asynccontextmanager
    async def socket(
        self, app: App | None = None, *, max_queue: int = 16
    ) -> AsyncIterator[RawClient]:
        """Opens a WebSocket and says nothing yet."""

        async def open_socket() -> ClientConnection:
            return await connect(
                self.url(),
                proxy=None,
                compression=None,
                ping_interval=None,
                close_timeout=1,
                max_size=None,
                max_queue=max_queue,
            )

        socket = await self.side.run(open_socket)
        try:
            yield RawClient(self.side, socket, app or self.app)
        finally:
            with anyio.CancelScope(shield=True):
                if not socket.transport.is_closing():
                    socket.transport.resume_reading()
                await self.side.run(websocket_socket.close, socket)

    @asynccontextmanager
    async def client(
        self, app: App | None = None, *, max_queue: int = 16
    ) -> AsyncIterator[RawClient]:
        """Opens a WebSocket and authenticates."""
        async with self.socket(app, max_queue=max_queue) as raw:
            await raw.connect()
            yield raw


@asynccontextmanager
async def open_door(
    hooks: DoorHooks | None = None,
    *,
    limits: WebSocketLimits | None = None,
    broker_limits: Limits = Limits(),
) -> AsyncIterator[OpenDoor]:
    """Opens a door on a free port, over an empty store in memory."""
    apps = AppRegistry(MemoryAppStorage())
    store = MemoryStore()
    broker = WatchedBroker(store, apps, limits=broker_limits, clock=anyio.current_time)

    async def serve() -> WebSocketDoor:
        return await serve_websocket(broker, host="127.0.0.1", port=0, hooks=hooks, limits=limits)

    async with open_asyncio_side() as side, background_tasks() as tasks:
        tasks.start_soon(store.run)
        door = await side.run(serve)
        try:
            yield OpenDoor(side, broker, apps, door, apps.create("own"))
        finally:
            with anyio.CancelScope(shield=True):
                await side.run(broker.shut_down)
                await side.run(door.aclose)
