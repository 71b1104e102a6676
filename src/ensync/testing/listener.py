"""A listening port that can stop answering, and come back under the same number."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

import anyio

from ensync.testing.changes import Changes

__all__ = ["Listener", "bound_socket"]

BACKLOG = 128
ETHERNET_SEGMENT = 1460


class Listener:
    """A port on a loopback address that accepts, refuses, or leaves callers hanging."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self._plugs: list[socket.socket] = []
        self._accepting = False
        self._changes = Changes()
        self._socket = bound_socket(host, port)
        self.port: int = self._socket.getsockname()[1]

    def open(self) -> None:
        """Accepts connections (again)."""
        if self._accepting:
            return
        if self._plugs:
            self._rebind()
        self._socket.listen(BACKLOG)
        self._accepting = True
        self._changes.notify()

    def refuse(self) -> None:
        """Has the operating system refuse connections; the port stays taken."""
        self._rebind()

    def hang(self) -> None:
        """Leaves connection attempts unanswered, by a queue that is full and never read."""
        self._rebind()
        self._socket.listen(0)
        # The first plug takes the only place. The second proves that there is none left:
        # it stays in the middle of its handshake.
        for _ in range(2):
            plug = socket.socket(_family(self.host))
            plug.setblocking(False)
            plug.connect_ex((self.host, self.port))
            self._plugs.append(plug)

    async def accept(self) -> socket.socket:
        """Waits for the next connection."""
        while True:
            await self._changes.until(lambda: self._accepting)
            listening = self._socket
            with suppress(anyio.ClosedResourceError, BlockingIOError, ConnectionAbortedError):
                # Closed: refuse() or hang() has put another socket in this one's place.
                await anyio.wait_readable(listening)
                if listening is self._socket:  # else it was replaced after a caller had come
                    client, _ = listening.accept()
                    return client

    def close(self) -> None:
        """Gives the port back."""
        self._accepting = False
        anyio.notify_closing(self._socket)
        self._socket.close()
        for plug in self._plugs:
            plug.close()
        self._plugs.clear()

    def _rebind(self) -> None:
        # A socket that is bound and does not listen refuses, and keeps the port from others.
        self.close()
        self._socket = bound_socket(self.host, self.port)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that keeps a port from others and does not listen. 0 is any free port.

    Raises:
        OSError: The port is taken.
    """
    listener = socket.socket(_family(host))
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "win32":
            # Loopback moves 64 KiB at a time, and what is slow there would stop and go.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, ETHERNET_SEGMENT)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
