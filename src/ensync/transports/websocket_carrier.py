"""The socket of a WebSocket link as what carries it, and how far its bytes have come."""

from __future__ import annotations

from ensync import websocket_socket
from ensync.errors import EnSyncConnectionError
from ensync.transports.base import Carrier, LostCallback, Progress
from ensync.transports.socket_progress import SocketProgress
from ensync.transports.websocket_direct import DirectConnection

__all__ = ["WebSocketCarrier"]


class WebSocketCarrier(Carrier):
    """Carries one link.

    Args:
        socket: What is written to and read from.
        lose: Tears the link down.
    """

    def __init__(self, socket: DirectConnection, lose: LostCallback) -> None:
        self._socket = socket
        self._lose = lose
        self._progress = SocketProgress(socket.transport.get_extra_info("socket"))

    def progress(self) -> Progress:
        buffered = websocket_socket.unsent_bytes(self._socket)
        return self._progress.now(self._socket.reads, self._socket.written, buffered)

    def lose(self, error: EnSyncConnectionError) -> None:
        self._lose(error)
