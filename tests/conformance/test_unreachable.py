"""Engines that can't be reached, or are none: a typed error, within the time limit."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
import trustme

import ensync
from ensync.server.local import LocalEngine
from tests.conformance.harness import PATIENCE, Keys, Target, take_one

pytestmark = pytest.mark.anyio

SCHEMES = {"grpc": "grpc", "websocket": "ws"}

Serve = Callable[[anyio.abc.SocketStream], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """A TCP server that is no engine; gives its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:

        async def handle(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                try:
                    await serve(stream)
                except (anyio.BrokenResourceError, anyio.EndOfStream):
                    return  # the client has left

        tasks.start_soon(listener.serve, handle)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def silent(stream: anyio.abc.SocketStream) -> None:
    while True:
        await stream.receive()


async def closes_at_once(stream: anyio.abc.SocketStream) -> None:
    await stream.aclose()


async def http_1(stream: anyio.abc.SocketStream) -> None:
    await stream.receive()
    await stream.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await silent(stream)


async def ssh(stream: anyio.abc.SocketStream) -> None:
    await stream.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    await silent(stream)


async def connect(url: str, *, within: float = PATIENCE) -> None:
    keys = Keys("k" * 43, "")
    with anyio.fail_after(2 * PATIENCE):
        async with ensync.connect(url, app_key=keys.app_key, connect_timeout=within):
            pytest.fail("there is no engine")


@pytest.mark.parametrize("serve", [silent, closes_at_once, http_1, ssh], ids=lambda f: f.__name__)
async def test_a_port_of_something_else(transport: str, serve: Serve) -> None:
    async with serving(serve) as port:
        with pytest.raises(ensync.EnSyncConnectionError) as caught:
            url = f"{SCHEMES[transport]}://127.0.0.1:{port}"
            await connect(url, within=0.5 if serve is silent else PATIENCE)
    assert not isinstance(caught.value, ensync.EnSyncAuthenticationError)
    if serve is silent:
        assert isinstance(caught.value, ensync.EnSyncTimeoutError)
        assert "0.5 s" in str(caught.value)


async def test_a_port_where_nobody_listens(transport: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"{SCHEMES[transport]}://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ensync.EnSyncConnectionError, match=r"127\.0\.0\.1") as caught:
            await connect(url)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.usefixtures("no_name_servers")
async def test_a_host_that_does_not_exist(transport: str) -> None:
    with pytest.raises(ensync.EnSyncConnectionError, match="no-such-host"):
        await connect(f"{SCHEMES[transport]}://no-such-host.invalid:50051")


async def test_the_port_of_the_other_transport(transport: str, engine: LocalEngine) -> None:
    wrong_door = engine.websocket_url if transport == "grpc" else engine.url
    url = f"{SCHEMES[transport]}://{wrong_door.partition('://')[2]}"
    with pytest.raises(ensync.EnSyncConnectionError):
        await connect(url)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client needs to trust that authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
    return context


def serving_context(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return context


@asynccontextmanager
async def tls_engine(tls: ssl.SSLContext, transport: str) -> AsyncIterator[Target]:
    async with LocalEngine(tls=tls) as engine:
        keys = Keys.of(engine.create_app("shop"))
        url = engine.url if transport == "grpc" else engine.websocket_url
        yield Target(url, keys, keys)


async def use(target: Target, tls: ssl.SSLContext) -> None:
    with anyio.fail_after(2 * PATIENCE):
        async with target.connect(tls=tls, connect_timeout=PATIENCE) as client:
            await client.publish("orders", [client.app_id], "over TLS")
            async with client.subscribe("orders") as subscription:
                assert (await take_one(subscription)).payload == "over TLS"


async def test_an_authority_of_your_own(
    transport: str, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    async with tls_engine(serving_context(authority, "127.0.0.1"), transport) as target:
        assert target.url.startswith(("grpcs://", "wss://"))
        await use(target, trusting)


async def test_an_authority_that_is_not_trusted(transport: str, authority: trustme.CA) -> None:
    async with tls_engine(serving_context(authority, "127.0.0.1"), transport) as target:
        with pytest.raises(ensync.EnSyncConnectionError, match="certificate") as caught:
            await use(target, ssl.create_default_context())
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_certificate_of_another_host(
    transport: str, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    async with tls_engine(serving_context(authority, "elsewhere.example"), transport) as target:
        with pytest.raises(ensync.EnSyncConnectionError, match="certificate"):
            await use(target, trusting)


async def test_a_client_certificate(
    transport: str, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    serving_tls = serving_context(authority, "127.0.0.1")
    serving_tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(serving_tls)  # pyright: ignore[reportUnknownMemberType]
    async with tls_engine(serving_tls, transport) as target:
        with pytest.raises(ensync.EnSyncConnectionError):
            await use(target, trusting)
        authority.issue_cert("client.example").configure_cert(trusting)  # pyright: ignore[reportUnknownMemberType]
        await use(target, trusting)


async def test_tls_against_plain_text(
    transport: str, engine: LocalEngine, trusting: ssl.SSLContext
) -> None:
    keys = Keys.of(engine.create_app("shop"))
    scheme, url = ("grpcs", engine.url) if transport == "grpc" else ("wss", engine.websocket_url)
    target = Target(f"{scheme}://{url.partition('://')[2]}", keys, keys)
    with pytest.raises(ensync.EnSyncConnectionError):
        await use(target, trusting)


async def test_plain_text_against_tls(transport: str, authority: trustme.CA) -> None:
    async with tls_engine(serving_context(authority, "127.0.0.1"), transport) as target:
        with pytest.raises(ensync.EnSyncConnectionError):
            await connect(f"{SCHEMES[transport]}://{target.url.partition('://')[2]}")


async def test_disable_tls_is_plain_text_whatever_the_url_says(
    transport: str, engine: LocalEngine
) -> None:
    app = engine.create_app("shop")
    scheme, url = ("grpcs", engine.url) if transport == "grpc" else ("wss", engine.websocket_url)
    async with ensync.connect(
        f"{scheme}://{url.partition('://')[2]}", app_key=app.app_key, disable_tls=True
    ) as client:
        assert client.app_id == app.app_id
