"""Ports to listen on, and the error when one can't be had."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener

from ensync.errors import EnSyncGenericError
from ensync.server.steady_listener import SteadyListener

__all__ = ["CannotListenError", "Purpose", "cannot_listen", "host_in_url", "listen", "port_of"]

Purpose: TypeAlias = Literal["gRPC", "WebSocket", "the admin endpoint", "the page"]

_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_ABOUT_THE_PORT = (errno.EADDRINUSE, errno.EACCES)


class CannotListenError(EnSyncGenericError):
    """A host and port can't be listened on.

    Attributes:
        purpose: What was to be served there.
        port_is_to_blame: Whether another port may help. Else the host is wrong.
    """

    default_code = "cannot_listen"

    def __init__(self, purpose: Purpose, host: str, port: int, error: OSError) -> None:
        super().__init__(
            f"the engine can't listen on {host} port {port} for {purpose}: {_reason(error)}"
        )
        self.purpose: Purpose = purpose
        self.port_is_to_blame = error.errno in _ABOUT_THE_PORT


async def listen(purpose: Purpose, host: str, port: int) -> SteadyListener:
    """Listens on every address that a host has.

    Args:
        purpose: What is to be served there.
        host: An address of this machine, or a name that has one.
        port: 0: any free one.

    Raises:
        CannotListenError: The host or the port can't be had.
    """
    with cannot_listen(purpose, host, port):
        return SteadyListener([await anyio.create_tcp_listener(local_host=host, local_port=port)])


def port_of(listener: MultiListener[SocketStream]) -> int:
    """Where a listener listens."""
    port: int = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
    return port


def host_in_url(host: str) -> str:
    """How a client on this machine writes a host that is listened on."""
    reachable = _ANY_ADDRESS.get(host, host)
    return f"[{reachable}]" if ":" in reachable else reachable


@contextmanager
def cannot_listen(purpose: Purpose, host: str, port: int) -> Iterator[None]:
    """Turns the operating system's error into one that says what could not be listened on."""
    try:
        yield
    except OSError as error:
        raise CannotListenError(purpose, host, port, error) from error


def _reason(error: OSError) -> str:
    # Event loops put words of their own around the system's; getaddrinfo counts below zero.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)
