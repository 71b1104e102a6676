"""EnSyncEngine, EnSyncWebSocketEngine and connect(): settings, and the scopes they open."""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Literal, NamedTuple, Never, Self, TypedDict, Unpack

import anyio

from ensync.address import Address, TransportName, parse_address
from ensync.client import EnSyncClient, make_client
from ensync.connection import SessionSettings
from ensync.crypto import SecretKey
from ensync.errors import EnSyncGenericError, EnSyncValidationError
from ensync.options import (
    Reconnect,
    check_app_key,
    check_choice,
    check_duration,
    from_environment,
    unknown_option,
    url_from_environment,
)
from ensync.scopes import serving, single_error_bare
from ensync.session import Session
from ensync.transports.base import Transport
from ensync.transports.bridge import AsyncioSide, open_asyncio_side
from ensync.transports.grpc import GrpcTransport
from ensync.transports.grpc_connection import HTTP2_WAYS, Http2
from ensync.transports.grpc_messages import Generation
from ensync.transports.websocket import Proxy, WebSocketTransport

__all__ = ["EnSyncEngine", "EnSyncWebSocketEngine", "connect"]


class EngineOptions(TypedDict, total=False):
    """The keyword options of an engine."""

    tls: ssl.SSLContext | None
    disable_tls: bool
    reconnect: Reconnect
    connect_timeout: float
    request_timeout: float
    heartbeat_interval: float
    drain_timeout: float
    generation: Literal["auto", "event", "message"]
    http2: Http2
    compression: Literal["deflate"] | None
    proxy: Proxy


_ENGINE_OPTIONS = tuple(EngineOptions.__annotations__)
_CLIENT_OPTIONS = ("app_key", "app_secret_key")


class EnSyncEngine:
    """How to reach an engine; ``async with engine:`` opens the connection's scope.

    Args:
        url: Where the engine is (PROTOCOL 1); ``$ENSYNC_URL`` by default.
        tls: Trust and client certificates of your own; the system's trust by default.
            For gRPC, the context's ALPN protocols are set to ``h2``.
        disable_tls: Plain text, whatever the URL says.
        reconnect: How a lost connection is sought again.
        connect_timeout: Seconds to connect and authenticate.
        request_timeout: Seconds for the answer to a request, waiting for a connection
            included.
        heartbeat_interval: Seconds between signs of life.
        drain_timeout: Seconds that leaving a subscription may wait for the engine. One
            that is gone or silent is waited for once, however many are left.
        generation: Which method names a gRPC engine offers; found out by itself.
        http2: What speaks HTTP/2 for gRPC: ``"auto"`` is the fast way, with h2 for an
            engine that needs more; ``"h2"`` is h2 from the start; ``"grpclib"`` is
            grpclib's public API alone. They differ in speed, and at an engine that ends
            in an orderly way: only ``"auto"`` waits for what it has begun.
        compression: ``"deflate"`` compresses what is sent to an engine that takes it, and
            takes what is compressed. Encrypted payloads do not shrink, beyond what base64
            added, and it costs time; so it is off. Not with ``http2="grpclib"``.
        proxy: The URL of a proxy to reach a WebSocket engine through; True takes what the
            environment says (``https_proxy`` and the like), None uses none. Loopback
            addresses are always reached directly, and so is every gRPC engine.

    Raises:
        EnSyncValidationError: A setting is not acceptable; the message names it.
        TypeError: An option does not exist; the message names the nearest.
    """

    _default_transport: TransportName = "grpc"

    def __init__(
        self,
        url: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        disable_tls: bool = False,
        reconnect: Reconnect = Reconnect(),
        connect_timeout: float = 10.0,
        request_timeout: float = 30.0,
        heartbeat_interval: float = 30.0,
        drain_timeout: float = 5.0,
        generation: Literal["auto", "event", "message"] = "auto",
        http2: Http2 = "auto",
        compression: Literal["deflate"] | None = None,
        proxy: Proxy = True,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise unknown_option(f"{type(self).__name__}()", unknown, _ENGINE_OPTIONS)
        websocket = self._default_transport == "websocket"
        self._address = parse_address(
            url_from_environment(url, os.environ, websocket=websocket),
            disable_tls=disable_tls,
            default_transport=self._default_transport,
        )
        self._check_transport()
        self._settings = SessionSettings(
            connect_timeout=check_duration("connect_timeout", connect_timeout),
            request_timeout=check_duration("request_timeout", request_timeout),
            heartbeat_interval=check_duration("heartbeat_interval", heartbeat_interval),
            drain_timeout=check_duration("drain_timeout", drain_timeout),
            reconnect=_check_reconnect(reconnect),
        )
        check_choice("generation", generation, ("auto", "event", "message"))
        check_choice("http2", http2, HTTP2_WAYS)
        _check_compression(compression, http2, self._address)
        self._transport_settings = _TransportSettings(
            self._address,
            _tls_context(tls, self._address),
            self._settings.connect_timeout,
            None if generation == "auto" else Generation(generation),
            http2,
            compression,
            _check_proxy(proxy, self._address),
        )
        self._open: _OpenEngine | None = None
        self._scope: AbstractAsyncContextManager[_OpenEngine] | None = None

    def _check_transport(self) -> None:
        """An EnSyncEngine takes every URL."""

    @property
    def url(self) -> str:
        """Where the engine is, in full."""
        return self._address.url

    def __repr__(self) -> str:
        state = "open" if self._open is not None else "closed"
        return f"<{type(self).__name__} {self.url} {state}>"

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise EnSyncGenericError(f"{self!r} is in use: enter it once", code="already_open")
        self._scope = _open_engine(self._transport_settings)
        try:
            self._open = await self._scope.__aenter__()
        except BaseException:
            self._scope = None
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._scope is not None
        scope, self._scope, self._open = self._scope, None, None
        return await scope.__aexit__(exc_type, exc, traceback)

    def create_client(
        self,
        app_key: str | None = None,
        *,
        app_secret_key: str | None = None,
        **unknown: Never,
    ) -> AbstractAsyncContextManager[EnSyncClient]:
        """One authenticated client, in a scope. Entering connects, and raises at once.

        Args:
            app_key: What the app authenticates with; ``$ENSYNC_APP_KEY`` by default.
            app_secret_key: Decrypts events; ``$ENSYNC_SECRET_KEY`` by default. Not
                needed by a client that only publishes.

        Raises:
            EnSyncValidationError: A key can't be one.
            EnSyncGenericError: The engine's scope is not open.
            EnSyncAuthenticationError: The engine refuses the app key.
            EnSyncConnectionError: The engine can't be reached.
        """
        if unknown:
            raise unknown_option("create_client()", unknown, _CLIENT_OPTIONS)
        credentials = from_environment(
            self.url,
            app_key,
            app_secret_key,
            os.environ,
        )
        secret_key = credentials.secret_key
        parsed = None if secret_key is None else SecretKey.parse(secret_key)
        return self._client(check_app_key(credentials.app_key), parsed)

    @asynccontextmanager
    async def _client(
        self, app_key: str, secret_key: SecretKey | None
    ) -> AsyncIterator[EnSyncClient]:
        opened = self._open
        if opened is None:
            raise EnSyncGenericError(
                "the engine's scope is not open: async with engine: ... create_client(...)",
                code="not_open",
            )
        session = Session(
            opened.side, opened.transport.open_link, app_key, self._settings, random.random
        )
        await session.open()
        async with serving(session.run, name="ensync session"):
            yield make_client(session, secret_key)


class EnSyncWebSocketEngine(EnSyncEngine):
    """The same over WebSocket. A bare host means ``wss://``; ``$ENSYNC_WS_URL`` by default."""

    _default_transport: TransportName = "websocket"

    def _check_transport(self) -> None:
        if self._address.transport != "websocket":
            raise EnSyncValidationError(
                f"{self._address.url} is a gRPC address: EnSyncWebSocketEngine takes wss://, "
                "ws://, https:// or http://, or a bare host"
            )


class _OpenEngine:
    def __init__(self, side: AsyncioSide, transport: Transport) -> None:
        self.side = side
        self.transport = transport


class _TransportSettings(NamedTuple):
    address: Address
    tls: ssl.SSLContext | None
    connect_timeout: float
    generation: Generation | None
    http2: Http2
    compression: Literal["deflate"] | None
    proxy: Proxy


@asynccontextmanager
async def _open_engine(settings: _TransportSettings) -> AsyncIterator[_OpenEngine]:
    async with single_error_bare(), open_asyncio_side() as side:
        transport = await side.run(_make_transport, settings, side)
        try:
            yield _OpenEngine(side, transport)
        finally:
            with anyio.CancelScope(shield=True):
                await side.run(transport.aclose)


async def _make_transport(settings: _TransportSettings, side: AsyncioSide) -> Transport:
    address, tls, connect_timeout, generation, http2, compression, proxy = settings
    if address.transport == "grpc":
        return GrpcTransport(
            address, side, tls=tls, generation=generation, http2=http2, compression=compression
        )
    return WebSocketTransport(
        address,
        side,
        tls=tls,
        connect_timeout=connect_timeout,
        compression=compression,
        proxy=proxy,
    )


def _tls_context(given: ssl.SSLContext | None, address: Address) -> ssl.SSLContext | None:
    if given is not None and not isinstance(given, ssl.SSLContext):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EnSyncValidationError(f"tls must be an ssl.SSLContext, not {type(given).__name__}")
    if not address.tls:
        _check_unused(given, address)
        return None
    context = ssl.create_default_context() if given is None else given
    if address.transport == "grpc":
        context.set_alpn_protocols(["h2"])
    return context


def _check_unused(tls: ssl.SSLContext | None, address: Address) -> None:
    if tls is not None:
        raise EnSyncValidationError(
            f"tls is given, but {address.url} is plain text: say grpcs:// or wss://, and no "
            "disable_tls"
        )


def _check_compression(compression: str | None, http2: Http2, address: Address) -> None:
    if compression is None:
        return
    check_choice("compression", compression, ("deflate",))
    if address.transport == "grpc" and http2 == "grpclib":
        raise EnSyncValidationError(
            'compression is not to be had with http2="grpclib": grpclib does not compress'
        )


def _check_proxy(proxy: object, address: Address) -> Proxy:
    if proxy is None or proxy is True:
        return proxy
    if not isinstance(proxy, str):
        raise EnSyncValidationError(
            f"proxy must be a URL, True for the environment's, or None, not {type(proxy).__name__}"
        )
    if address.transport == "grpc":
        raise EnSyncValidationError(f"proxy is for WebSocket, and {address.url} is a gRPC address")
    return proxy


def _check_reconnect(reconnect: object) -> Reconnect:
    if not isinstance(reconnect, Reconnect):
        raise EnSyncValidationError(
            f"reconnect must be a Reconnect(...), not {type(reconnect).__name__}"
        )
    return reconnect


@asynccontextmanager
async def _connect(
    engine: EnSyncEngine, app_key: str | None, app_secret_key: str | None
) -> AsyncIterator[EnSyncClient]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(engine)
        yield await stack.enter_async_context(
            engine.create_client(app_key, app_secret_key=app_secret_key)
        )


def connect(
    url: str | None = None,
    *,
    app_key: str | None = None,
    app_secret_key: str | None = None,
    **engine_options: Unpack[EngineOptions],
) -> AbstractAsyncContextManager[EnSyncClient]:
    """An engine and one client of it, in one scope.

    Args:
        url: Where the engine is; ``$ENSYNC_URL`` by default.
        app_key: What the app authenticates with; ``$ENSYNC_APP_KEY`` by default.
        app_secret_key: Decrypts events; ``$ENSYNC_SECRET_KEY`` by default.
        **engine_options: As for :class:`EnSyncEngine`.

    Raises:
        EnSyncValidationError: An argument is not acceptable.
        TypeError: An option does not exist; the message names the nearest.
        EnSyncAuthenticationError: The engine refuses the app key.
        EnSyncConnectionError: The engine can't be reached.
    """
    accepted = (*_CLIENT_OPTIONS, *_ENGINE_OPTIONS)
    unknown = {name: value for name, value in engine_options.items() if name not in accepted}
    if unknown:
        raise unknown_option("connect()", unknown, accepted)
    engine = EnSyncEngine(url, **engine_options)  # pyright: ignore[reportArgumentType]
    return _connect(engine, app_key, app_secret_key)
