"""The socket of a WebSocket link as what carries it, and how far its bytes have come."""

from __future__ import annotations

from websockets.asyncio.client import ClientConnection

from ensync import websocket_socket
from ensync.errors import EnSyncConnectionError
from ensync.transports.base import Carrier, LostCallback, Progress
from ensync.transports.socket_progress import SocketProgress

__all__ = ["CountingConnection", "WebSocketCarrier"]


class CountingConnection(ClientConnection):
    """Counts what it reads: a message that is still arriving is a sign of life too.

    Attributes:
        reads: How often something was read.
    """

    reads = 0

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        super().data_received(data)


class WebSocketCarrier(Carrier):
    """Carries one link.

    Args:
        socket: What is written to and read from.
        lose: Tears the link down.

    Attributes:
        written: How much was written to the socket, about.
    """

    def __init__(self, socket: CountingConnection, lose: LostCallback) -> None:
        self._socket = socket
        self._lose = lose
        self._progress = SocketProgress(socket.transport.get_extra_info("socket"))
        self.written = 0

    def progress(self) -> Progress:
        buffered = websocket_socket.unsent_bytes(self._socket)
        return self._progress.now(self._socket.reads, self.written, buffered)

    def lose(self, error: EnSyncConnectionError) -> None:
        self._lose(error)
