"""Serves the page, and what it shows, to whoever has its link.

The page asks once a second. A stream of events would save nothing on one machine, and
polling finds its way back by itself when a phone sleeps or the engine is gone for a while.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from http import HTTPStatus
from importlib.resources import files

import anyio
from anyio.abc import AnyByteStream, ByteStream, Listener
from anyio.streams.tls import TLSListener

from ensync.scopes import background_tasks
from ensync.server.http import HttpAnswer, HttpError, HttpRequest, serve_http, store_failures_told
from ensync.server.http_gate import Gate
from ensync.server.listening import host_in_url, listen, port_of
from ensync.server.local import LocalEngine
from ensync.server.ui.rates import INTERVAL
from ensync.server.ui.view import View

__all__ = ["Page", "open_page"]

logger = logging.getLogger("ensync")

# What is served under its own name; the page itself is what is asked for by no name.
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HANDSHAKE_LIMIT = 10.0  # seconds
_PLAIN = "text/plain; charset=utf-8"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The link holds the token.
    "Referrer-Policy": "no-referrer",
}


class Page:
    """A page that is being served.

    Attributes:
        url: Where it is. It contains the token, so it is a secret.
    """

    def __init__(self, view: View, gate: Gate, url: str) -> None:
        self.url = url
        self._view = view
        self._gate = gate

    async def handle(self, request: HttpRequest) -> object:
        """Answers a request. What goes wrong is told as plain text, as people read it."""
        try:
            return await self._answer(request)
        except HttpError as error:
            return HttpAnswer(f"{error}\n".encode(), _PLAIN, error.status, _HEADERS)

    async def _answer(self, request: HttpRequest) -> object:
        rest = self._gate.admit(request)
        if request.method != "GET":
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "there is nothing here but to look at")
        if not rest:  # what it loads is named relative to itself, so the slash has to be there
            there = {**_HEADERS, "Location": f"{self._gate.token}/"}
            return HttpAnswer(b"", _PLAIN, HTTPStatus.TEMPORARY_REDIRECT, there)
        if rest == ["state"]:
            with store_failures_told():
                return await self._view.show()
        if len(rest) == 1 and rest[0] in _FILES:
            name, media_type = _FILES[rest[0]]
            return HttpAnswer(_file(name), media_type, headers=_HEADERS)
        raise HttpError(HTTPStatus.NOT_FOUND, "there is no such page")


@asynccontextmanager
async def open_page(
    engine: LocalEngine,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[Page]:
    """Serves a page that shows what a running engine is doing, for as long as the block is open.

        async with LocalEngine() as engine, open_page(engine) as page:
            print("open", page.url)

    It shows queues, rates, clients, and the clear-text parts of the latest events. It can
    change nothing. Only those who have its link see it.

    Args:
        engine: The engine.
        host: The address to listen on.
        port: 0: any free one.
        tls: Serves it with TLS, by this context.

    Raises:
        CannotListenError: The host or the port can't be had.
    """
    view = View(engine, anyio.current_time)
    sockets = await listen("the page", host, port)
    scheme, own_name = ("http", host) if tls is None else ("https", None)
    gate = Gate(own_name, "open the link that was printed when the engine was started")
    url = f"{scheme}://{host_in_url(host)}:{port_of(sockets)}/{gate.token}/"
    page = Page(view, gate, url)
    async with _with_tls(sockets, tls) as listener, background_tasks() as tasks:
        engine.broker.observers.append(view.latest.see)
        try:
            tasks.start_soon(_sample, view)
            tasks.start_soon(serve_http, listener, page.handle)
            yield page
        finally:
            engine.broker.observers.remove(view.latest.see)


class _PageTlsListener(TLSListener):
    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: AnyByteStream) -> None:
        """Closes the connection. That a stranger speaks no TLS is not worth a traceback."""
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, Exception):
            raise exc
        logger.debug("no TLS on the page's port: %s", exc)


def _with_tls(listener: Listener[ByteStream], tls: ssl.SSLContext | None) -> Listener[ByteStream]:
    if tls is None:
        return listener
    return _PageTlsListener(
        listener, tls, standard_compatible=False, handshake_timeout=_HANDSHAKE_LIMIT
    )


async def _sample(view: View) -> None:
    while True:
        await anyio.sleep(INTERVAL)
        view.sample()


@cache
def _file(name: str) -> bytes:
    return files("ensync.server.ui").joinpath(name).read_bytes()
