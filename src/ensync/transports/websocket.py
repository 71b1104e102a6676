"""The WebSocket transport (PROTOCOL 4), over the websockets library."""

from __future__ import annotations

import ssl
from typing import Literal, TypeAlias

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, InvalidProxy, InvalidStatus, ProxyError

from ensync.address import Address, is_loopback
from ensync.errors import EnSyncConnectionError
from ensync.transports.base import Link, LostCallback, Transport
from ensync.transports.bridge import AsyncioSide
from ensync.transports.connect_errors import network_error
from ensync.transports.websocket_direct import DirectConnection
from ensync.transports.websocket_link import CLOSE_TIMEOUT, WebSocketLink
from ensync.websocket_logger import websocket_logger
from ensync.websocket_text import MAX_MESSAGE_BYTES

__all__ = ["Proxy", "WebSocketTransport"]

Proxy: TypeAlias = str | Literal[True] | None

# Above this many bytes in the socket's buffer requests wait in the link, where they can
# still be taken back.
_WRITE_HIGH_WATER = 64 * 1024

# An engine may count an event's own size alone. A message that is not taken would cost the
# link, and come again on the next.
_MARGIN = 64 * 1024

# Messages are queued where they can't be told at once: in pieces, or before there is a link.
_MAX_QUEUED_FRAMES = 256


class WebSocketTransport(Transport):
    """Opens a socket for each link. To be made on the asyncio side.

    Args:
        address: The engine's.
        side: Where reading and writing goes on.
        tls: For ``wss://``; None is the system's trust store.
        connect_timeout: Seconds until the handshake must be over.
        max_message_bytes: The largest message that is taken from the engine.
        compression: ``"deflate"`` offers it to the engine. Payloads are encrypted
            and do not get smaller by it.
        proxy: A proxy's URL; True takes what the environment says, None uses none.
            Loopback addresses are always reached directly.
    """

    def __init__(
        self,
        address: Address,
        side: AsyncioSide,
        *,
        tls: ssl.SSLContext | None,
        connect_timeout: float,
        max_message_bytes: int = MAX_MESSAGE_BYTES + _MARGIN,
        compression: Literal["deflate"] | None = None,
        proxy: Proxy = True,
    ) -> None:
        self._address = address
        self._side = side
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._max_message_bytes = max_message_bytes
        self._compression = compression
        self._proxy: Proxy = None if is_loopback(address.host) else proxy

    async def open_link(self, on_lost: LostCallback) -> Link:
        try:
            socket = await self._connect()
        except OSError as error:
            raise network_error(self._address, error) from error
        except Exception as error:
            raise _handshake_error(self._address, error) from error
        return WebSocketLink(socket, self._address, self._side, on_lost)

    async def _connect(self) -> DirectConnection:
        socket = await _Connect(
            self._address.url,
            create_connection=DirectConnection,
            ssl=(self._tls or True) if self._address.tls else None,
            proxy=self._proxy,
            compression=self._compression,
            open_timeout=self._connect_timeout,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=None,  # the session beats, and has deadlines for it
            max_size=self._max_message_bytes,
            max_queue=_MAX_QUEUED_FRAMES,
            write_limit=_WRITE_HIGH_WATER,
            logger=websocket_logger(),
        )
        assert isinstance(socket, DirectConnection)
        return socket

    async def aclose(self) -> None:
        """Links share nothing."""


class _Connect(connect):
    """Follows no redirects: the app key is for the engine that the user has named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _handshake_error(address: Address, error: Exception) -> EnSyncConnectionError:
    if isinstance(error, (InvalidProxy, ProxyError)):
        return EnSyncConnectionError(
            f"no connection to {address.url} through the proxy: {error}", code="connect_failed"
        )
    return EnSyncConnectionError(
        f"no WebSocket connection to {address.url}: {_problem(address, error)}",
        code="protocol_error",
    )


def _problem(address: Address, error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        return f"the server answers with HTTP status {error.response.status_code}"
    if not isinstance(error, InvalidMessage):
        return str(error) or repr(error)
    what = "the server's answer is not HTTP"
    if isinstance(error.__cause__, EOFError):
        what = "it ended before there was an answer in HTTP; if it always does"
    if address.tls:
        return f"{what}, perhaps the server speaks gRPC (grpcs://)"
    return f"{what}, perhaps the server speaks gRPC (grpc://) or expects TLS (wss://)"
