"""The WebSocket door: where clients that speak text come in (PROTOCOL 4)."""

from __future__ import annotations

import ssl
from http import HTTPStatus
from typing import Any, NamedTuple
from weakref import WeakSet

import anyio
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.protocol import State

from ensync.address import ENDPOINT
from ensync.server.arriving import TLS_HANDSHAKE_TIMEOUT, Arriving
from ensync.server.broker import Broker
from ensync.server.hooks import DoorHooks
from ensync.server.stop_accepting import stop_accepting
from ensync.server.websocket_connection import WebSocketConnection
from ensync.websocket_logger import websocket_logger
from ensync.websocket_socket import abort
from ensync.websocket_text import MAX_MESSAGE_BYTES

__all__ = ["WebSocketDoor", "WebSocketLimits", "serve_websocket"]

_CLOSE_TIMEOUT = 1.0

# A slow reader has at most about this much waiting for it, and one message more.
_WRITE_HIGH_WATER = 64 * 1024

# Messages may be large, so few of them wait for a client whose requests take time.
_MAX_QUEUED_FRAMES = 2


class WebSocketLimits(NamedTuple):
    """What a WebSocket door puts up with.

    Attributes:
        connections: How many at most.
        message_bytes: The largest message that is read.
        handshake_timeout: Seconds until a connection must have become a WebSocket.
        ping_interval: Seconds between pings, and for the answer to arrive.
    """

    connections: int = 10_000
    message_bytes: int = MAX_MESSAGE_BYTES
    handshake_timeout: float = 10.0
    ping_interval: float = 20.0


class WebSocketDoor:
    """A listening WebSocket door. Made by serve_websocket().

    Attributes:
        port: Where it listens.
        connections: The open connections.
    """

    def __init__(self, broker: Broker, hooks: DoorHooks, limits: WebSocketLimits) -> None:
        self.port = 0
        self.connections: set[WebSocketConnection] = set()
        self._broker = broker
        self._hooks = hooks
        self._limits = limits
        self._server: Server | None = None
        self._arriving = Arriving()
        self._sockets: WeakSet[ServerConnection] = WeakSet()

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Starts to accept connections."""
        self._server = await serve(
            self._serve,
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else TLS_HANDSHAKE_TIMEOUT,
            process_request=self._check_request,
            compression=None,
            open_timeout=self._limits.handshake_timeout,
            close_timeout=_CLOSE_TIMEOUT,
            ping_interval=None,  # connections do it, since hooks can silence them
            max_size=self._limits.message_bytes,
            max_queue=_MAX_QUEUED_FRAMES,
            write_limit=_WRITE_HIGH_WATER,
            logger=websocket_logger(),
            create_connection=_entered_into(self._sockets, self._arriving),
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def aclose(self) -> None:
        """Stops listening and closes all connections, in three seconds at the most."""
        if self._server is None:
            return
        await stop_accepting(self._server, self._arriving)
        for socket in list(self._sockets):
            if socket.state is State.CONNECTING:  # nothing is under way that could end well
                abort(socket)
        self._server.close()
        with anyio.move_on_after(_CLOSE_TIMEOUT):
            await self._server.wait_closed()
        for socket in list(self._sockets):
            abort(socket)
        with anyio.move_on_after(_CLOSE_TIMEOUT):  # not for a loop that can't turn people away
            await self._server.wait_closed()

    async def _serve(self, socket: ServerConnection) -> None:
        connection = WebSocketConnection(
            socket, self._broker, self._hooks, self._limits.ping_interval
        )
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)

    def _check_request(self, socket: ServerConnection, request: Request) -> Response | None:
        if request.path.partition("?")[0] != ENDPOINT:
            return socket.respond(HTTPStatus.NOT_FOUND, f"the endpoint here is {ENDPOINT}\n")
        if len(self.connections) >= self._limits.connections:
            return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None


def _entered_into(sockets: WeakSet[ServerConnection], arriving: Arriving) -> type[ServerConnection]:
    """Makes connections that are known from the first moment, before any handshake."""

    class Entered(ServerConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            arriving.note()
            super().__init__(*arguments, **options)

        def connection_made(self, transport: Any) -> None:
            sockets.add(self)
            super().connection_made(transport)

    return Entered


async def serve_websocket(
    broker: Broker,
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    hooks: DoorHooks | None = None,
    limits: WebSocketLimits | None = None,
) -> WebSocketDoor:
    """Opens a WebSocket door. To be called on the asyncio side, as is all that it gives.

    Args:
        broker: Decides what clients get.
        host: The address to listen on.
        port: The port; 0: any free one.
        tls: Serves with TLS, by this context.
        hooks: Called around all that the door does.
        limits: What it puts up with.

    Raises:
        OSError: It can't listen there.
    """
    door = WebSocketDoor(broker, hooks or DoorHooks(), limits or WebSocketLimits())
    await door.listen(host, port, tls)
    return door
