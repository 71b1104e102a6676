"""A WebSocket server that says what a test has written for it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ensync.address import parse_address
from ensync.errors import EnSyncConnectionError, EnSyncError
from ensync.transports.base import Call, Delivery, Identity, Link, Outcome, Request, Stream
from ensync.transports.bridge import AsyncioSide, open_asyncio_side
from ensync.transports.websocket import WebSocketTransport

__all__ = [
    "Answers",
    "Script",
    "ScriptedEngine",
    "TestedLink",
    "break_off",
    "scripted_engine",
    "stop_reading",
]

Script: TypeAlias = Callable[[str], "list[str]"]
"""From a request's text to what the engine says then."""


class Answers:
    """A script that answers CONN by itself, and each later request by the next list given."""

    def __init__(self, *replies: list[str]) -> None:
        self._replies = iter(replies)

    def __call__(self, request: str) -> list[str]:
        if request.startswith("CONN;"):
            return ["+PASS:{clientId=c1,clientHash=aGFzaA==}"]
        return next(self._replies, list[str]())


@dataclass
class TestedLink:
    """A link with a record of what it has called back."""

    __test__ = False

    side: AsyncioSide
    link: Link
    lost: list[EnSyncConnectionError]
    replies: dict[int, Outcome | EnSyncError] = field(
        default_factory=dict[int, Outcome | EnSyncError]
    )
    deliveries: list[Delivery] = field(default_factory=list[Delivery])
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def authenticate(self, app_key: str = "key") -> Identity:
        return await self.side.run(self.link.authenticate, app_key)

    async def subscribe(self, event_name: str) -> Stream:
        return await self.side.run(self.link.subscribe, event_name, self._delivered, print)

    def send(self, number: int, request: Request) -> Call:
        """Sends a request whose reply will stand under a number in ``replies``."""

        def on_reply(reply: Outcome | EnSyncError) -> None:
            assert number not in self.replies, "answered twice"
            self.replies[number] = reply
            self.changed.set()

        return self.link.send(request, on_reply)

    async def ask(self, request: Request) -> Outcome | EnSyncError:
        number = len(self.replies) + 1_000
        self.send(number, request)
        await self.until(lambda: number in self.replies)
        return self.replies[number]

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not is_so():
                self.changed = anyio.Event()
                await self.changed.wait()

    async def until_lost(self) -> EnSyncConnectionError:
        await self.until(lambda: bool(self.lost))
        return self.lost[0]

    def notice_loss(self, error: EnSyncConnectionError) -> None:
        self.lost.append(error)
        self.changed.set()

    def _delivered(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.changed.set()


async def stop_reading(connection: ServerConnection) -> None:
    """What :meth:`ScriptedEngine.run` may do to a connection; so is the next."""
    connection.transport.pause_reading()


async def break_off(connection: ServerConnection) -> None:
    connection.transport.abort()


@dataclass
class ScriptedEngine:
    side: AsyncioSide
    port: int
    received: list[str]
    connections: list[ServerConnection]
    heard: anyio.Event

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def link(self, url: str | None = None) -> AsyncIterator[TestedLink]:
        """Opens a link to this engine, and closes it."""
        lost: list[EnSyncConnectionError] = []
        holder: list[TestedLink] = []

        def on_lost(error: EnSyncConnectionError) -> None:
            holder[0].notice_loss(error)

        transport = WebSocketTransport(
            parse_address(url or self.url), self.side, tls=None, connect_timeout=5
        )
        link = await self.side.run(transport.open_link, on_lost)
        holder.append(TestedLink(self.side, link, lost))
        try:
            yield holder[0]
        finally:
            await self.side.run(link.aclose)
            await self.side.run(transport.aclose)

    async def until_heard(self, count: int) -> None:
        """Waits until so many requests have arrived, the authentication included."""
        with anyio.fail_after(10):
            while len(self.received) < count:
                self.heard = anyio.Event()
                await self.heard.wait()

    async def say(self, text: str | bytes) -> None:
        """Says something out of turn."""

        async def send() -> None:
            await self.connections[-1].send(text)

        await self.side.run(send)

    async def run(self, act: Callable[[ServerConnection], Awaitable[None]]) -> None:
        """Does something to the last connection."""

        async def on_side() -> None:
            await act(self.connections[-1])

        await self.side.run(on_side)

    async def converse(self, connection: ServerConnection, script: Script) -> None:
        self.connections.append(connection)
        try:
            async for text in connection:
                assert isinstance(text, str)
                self.received.append(text)
                self.heard.set()
                for reply in script(text):
                    await connection.send(reply)
        except ConnectionClosed:
            return


@asynccontextmanager
async def scripted_engine(
    script: Script, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedEngine]:
    """Serves a script on a free port."""
    async with open_asyncio_side() as side:
        engine = ScriptedEngine(side, 0, [], [], anyio.Event())

        async def handle(connection: ServerConnection) -> None:
            await engine.converse(connection, script)

        async def start() -> Server:
            return await serve(handle, "127.0.0.1", 0, ssl=tls, ping_interval=None, max_size=None)

        async def stop() -> None:
            server.close()
            await server.wait_closed()

        server = await side.run(start)
        engine.port = next(iter(server.sockets)).getsockname()[1]
        try:
            yield engine
        finally:
            await side.run(stop)
