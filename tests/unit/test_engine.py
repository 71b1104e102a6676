"""Settings of an engine that don't go together."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

import ensync

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "url", ["grpc://host", "ws://host", "http://host", "localhost", "127.0.0.1:50051"]
)
def test_tls_is_not_dropped_where_the_url_says_plain_text(url: str) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="plain text: say grpcs:// or wss://"):
        ensync.EnSyncEngine(url, tls=ssl.create_default_context())


def test_tls_and_no_tls() -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="disable_tls"):
        ensync.EnSyncEngine("grpcs://host", tls=ssl.create_default_context(), disable_tls=True)


@pytest.mark.parametrize("proxy", [7, b"http://proxy", False])
def test_what_is_no_proxy(proxy: Any) -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="proxy must be a URL"):
        ensync.EnSyncEngine("wss://host", proxy=proxy)


def test_a_proxy_is_for_websocket() -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="gRPC address"):
        ensync.EnSyncEngine("grpcs://host", proxy="http://127.0.0.1:1")


async def test_the_proxy_is_used(free_tcp_port: int) -> None:
    proxy = f"http://127.0.0.1:{free_tcp_port}"
    with pytest.raises(ensync.EnSyncConnectionError) as caught:
        async with ensync.connect("ws://engine.invalid", app_key="a" * 43, proxy=proxy):
            pass
    assert str(free_tcp_port) in repr(caught.value.__cause__)
