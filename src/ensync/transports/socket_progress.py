"""How far the bytes have come that were written to a socket, as far as the system tells."""

from __future__ import annotations

import socket
import struct
import sys
from array import array
from typing import Any

from ensync.transports.base import Progress

__all__ = ["SocketProgress"]

# Where Linux has tcpi_bytes_acked in its struct tcp_info.
_BYTES_ACKED_AT = 120
_BYTES_ACKED = struct.Struct("=Q")


class SocketProgress:
    """Of one socket, or of what asyncio has in place of one, from its beginning.

    A system takes megabytes from a program at once. Where it does not tell what has become
    of them, they count as departed when it has taken them.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def now(self, received: int, written: int, buffered: int) -> Progress:
        """The progress.

        Args:
            received: Grows with whatever was read.
            written: How many bytes were written so far.
            buffered: How many of those the system has not taken yet.
        """
        known = self._told_by_system()
        if known is None:
            return Progress(received, written - buffered, buffered)
        acknowledged, queued = known
        return Progress(received, acknowledged, queued + buffered)

    def _told_by_system(self) -> tuple[int, int] | None:
        if sys.platform != "linux" or self._socket is None:
            return None
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            acknowledged: int = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)[0]
            return acknowledged, _queued(self._socket.fileno())
        except (OSError, ValueError, struct.error):
            return None  # it is closed, or no TCP socket, or the system is old


def _queued(descriptor: int) -> int:
    import fcntl
    import termios

    count = array("i", [0])
    fcntl.ioctl(descriptor, termios.TIOCOUTQ, count)
    return count[0]
