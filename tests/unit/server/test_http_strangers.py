"""What those who have no token can do to an engine's HTTP: nothing, and not fill its log either."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from ensync.server.admin import AdminEndpoint, open_admin
from ensync.server.http import HttpRequest
from ensync.server.local import LocalEngine
from ensync.server.ui import Page, open_page
from tests.unit.server.http_client import talk
from tests.unit.server.http_serving import TlsEnds, serving, tls_ends

pytestmark = pytest.mark.anyio

BAD_RECORD = b"\x17\x03\x03\x00\x20" + b"A" * 32


@pytest.fixture(scope="module")
def ends() -> TlsEnds:
    return tls_ends()


class _Logged(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.something = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.something.set()


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[anyio.Event]:
    """Set when anything is logged, be it for debugging only."""
    handler = _Logged()
    logger = logging.getLogger("ensync")
    with caplog.at_level(logging.DEBUG, "ensync"):
        logger.addHandler(handler)
        try:
            yield handler.something
        finally:
            logger.removeHandler(handler)


def worth_a_look(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno > logging.DEBUG]


@asynccontextmanager
async def connected(port: int, ends: TlsEnds) -> AsyncIterator[TLSStream]:
    with anyio.fail_after(10):
        stream = await anyio.connect_tcp(
            "127.0.0.1", port, ssl_context=ends.client, tls_standard_compatible=False
        )
        async with stream:
            yield stream


async def read_to_the_end(stream: ByteStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


def port_in(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def send_and_reset(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("over_tls", "below_tls"),
    [
        (b"", b""),
        (b"GET /half", b""),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"", BAD_RECORD),
        (b"GET /half", BAD_RECORD),
    ],
)
async def test_an_end_that_tls_does_not_know_ends_no_engine(
    ends: TlsEnds, caplog: pytest.LogCaptureFixture, over_tls: bytes, below_tls: bytes
) -> None:
    async with LocalEngine() as engine, open_page(engine, tls=ends.server) as page:
        port = port_in(page.url)
        async with connected(port, ends) as stream:
            if over_tls:
                await stream.send(over_tls)
            raw = stream.transport_stream
            assert isinstance(raw, anyio.abc.SocketStream)
            await raw.send(below_tls)
            await raw.send_eof()
            await read_to_the_end(raw)
        async with connected(port, ends) as stream:
            path = urlsplit(page.url).path
            await stream.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert (await read_to_the_end(stream)).startswith(b"HTTP/1.1 200 ")
    assert worth_a_look(caplog) == []


@pytest.mark.parametrize(
    "sent", [b"", b"GET /half", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"]
)
async def test_who_goes_in_the_middle_is_not_worth_a_traceback(
    caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    async def answer(request: HttpRequest) -> object:
        return await request.body.read()

    with logged(caplog) as something:
        async with serving(answer) as port:
            send_and_reset(port, sent)
            with anyio.fail_after(5):
                await something.wait()
            assert (await talk(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert worth_a_look(caplog) == []


@pytest.mark.parametrize("opening", [open_admin, open_page])
async def test_who_has_no_token_is_refused_before_there_is_a_body(
    opening: Callable[[LocalEngine], AbstractAsyncContextManager[AdminEndpoint | Page]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ensync.server.http._SKIP_LIMIT", 60.0)
    async with LocalEngine() as engine, opening(engine) as endpoint:
        stream = await anyio.connect_tcp("127.0.0.1", port_in(endpoint.url))
        async with stream:
            head = "POST /wrong/apps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"
            await stream.send(head.encode())
            with anyio.fail_after(5):
                assert (await stream.receive()).startswith(b"HTTP/1.1 403 ")
            # Who has begun to send is let finish: else it would not get to read the answer.
            await stream.send(b"[" * 100_000)
            assert await read_to_the_end(stream) == b""
