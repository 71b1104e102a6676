"""Leaving an engine with TLS while somebody is about to establish it."""

from __future__ import annotations

import socket
import ssl
from contextlib import closing

import anyio
import anyio.lowlevel
import pytest

from ensync.server.local import LocalEngine
from tests.unit.server.http_serving import tls_ends

# Not with uvloop, which does not tell who is about to establish TLS.
pytestmark = pytest.mark.anyio

# Less than a TLS handshake may take by default.
SOON = 5.0
HELLO = b"\x16\x03\x01\x02\x00\x01\x00"  # how it begins


@pytest.fixture(scope="module")
def serving() -> ssl.SSLContext:
    return tls_ends().server


@pytest.mark.parametrize("says", [b"", HELLO], ids=["nothing", "half a hello"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 20])
@pytest.mark.parametrize("door", ["url", "websocket_url"])
async def test_who_does_not_go_on_with_the_handshake_is_turned_away(
    serving: ssl.SSLContext, door: str, turns: int, says: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(SOON):
        async with LocalEngine(tls=serving) as engine:
            port = int(getattr(engine, door).rpartition(":")[2])
            caller = socket.create_connection(("127.0.0.1", port))
            caller.sendall(says)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
    with closing(caller):
        caller.settimeout(SOON)
        assert was_turned_away(caller)
    assert not caplog.records


def was_turned_away(caller: socket.socket) -> bool:
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True
