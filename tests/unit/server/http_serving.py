"""Serves HTTP to a test, with and without TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import trustme

from ensync.server.http import Handler, serve_http
from ensync.server.listening import listen, port_of


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """The port where a handler answers."""
    listener = await listen("the page", "127.0.0.1", 0)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(serve_http, listener, handler)
        yield port_of(listener)
        tasks.cancel_scope.cancel()


class TlsEnds(NamedTuple):
    """Both ends of TLS on 127.0.0.1."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def tls_ends() -> TlsEnds:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
    client = ssl.create_default_context()
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType]
    return TlsEnds(server, client)
