"""The fault proxy while it forwards faithfully, and its manners."""

from __future__ import annotations

import os

import anyio
import pytest

from ensync.errors import EnSyncValidationError
from ensync.scopes import background_tasks
from ensync.testing import FaultProxy
from tests.unit.testing.echo import (
    Echo,
    connect,
    receive_exactly,
    still,
    within,
)

pytestmark = pytest.mark.anyio


@pytest.mark.all_loops
async def test_forwards_both_ways_and_counts(echo: Echo, proxy: FaultProxy) -> None:
    data = os.urandom(1_000_000)
    with within():
        async with await connect(proxy) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            assert await receive_exactly(stream, len(data)) == data
            assert proxy.connections == 1
        await proxy.wait_connections(0)
    assert bytes(echo.received) == data
    statistics = proxy.statistics()
    assert (statistics.bytes_upstream, statistics.bytes_downstream) == (len(data), len(data))
    assert (statistics.dropped_upstream, statistics.dropped_downstream) == (0, 0)
    assert (statistics.connections, statistics.accepted_total) == (0, 1)


async def test_a_half_closed_client_still_gets_its_answer(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            await stream.send(b"last words")
            await stream.send_eof()
            assert await receive_exactly(stream, 10) == b"last words"
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        await proxy.wait_connections(0)


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("grpc://127.0.0.1:50051", "grpc://127.0.0.1:7"),
        ("ws://localhost:8082/base?x=1", "ws://127.0.0.1:7/base?x=1"),
        ("grpcs://[::1]:443", "grpcs://127.0.0.1:7"),
        ("localhost:50051", "127.0.0.1:7"),
        (("localhost", 50051), "127.0.0.1:7"),
    ],
)
async def test_url_is_the_targets_with_the_proxys_address(
    target: str | tuple[str, int], url: str
) -> None:
    assert FaultProxy(target, port=7).url == url


@pytest.mark.parametrize("target", ["grpc://localhost", "localhost", "localhost:x", "", ":1"])
async def test_refuses_a_target_without_host_and_port(target: str) -> None:
    with pytest.raises(EnSyncValidationError, match="host and port"):
        FaultProxy(target)


async def test_the_users_error_leaves_bare(echo: Echo) -> None:
    with within(), pytest.raises(LookupError, match="mine"):
        async with FaultProxy(echo.url) as proxy, await connect(proxy):
            raise LookupError("mine")


async def test_leaves_no_task_behind(echo: Echo) -> None:
    # No open file either: the census of every test sees to that.
    with within():
        async with FaultProxy(echo.url) as proxy:
            streams = [await connect(proxy) for _ in range(20)]
            for stream in streams:
                await stream.send(b"x")
            await proxy.wait_bytes("upstream", 20)
            proxy.stall()
            assert len(proxy_tasks()) == 1 + 20 * 5
        assert proxy_tasks() == []
        for stream in streams:
            await stream.aclose()


def proxy_tasks() -> list[str]:
    names = [task.name or "" for task in anyio.get_running_tasks()]
    return [name for name in names if name.startswith("ensync fault proxy")]


async def test_an_unread_receiver_holds_its_sender_back(echo: Echo) -> None:
    data = bytes(64 * 1024 * 1024)
    with within():
        async with (
            FaultProxy(echo.url, buffer_size=65_536) as proxy,
            await connect(proxy) as stream,
        ):
            async with background_tasks() as tasks:
                tasks.start_soon(stream.send, data)
                await still(lambda: proxy.bytes_total("upstream"))
            assert proxy.bytes_total("upstream") < len(data) / 2
            proxy.reset()
            await proxy.wait_connections(0)


async def test_a_wrong_argument_names_what_is_accepted(proxy: FaultProxy) -> None:
    with pytest.raises(EnSyncValidationError, match="upstream, downstream"):
        proxy.stall("sideways")  # type: ignore[arg-type]
    with pytest.raises(EnSyncValidationError, match="negative"):
        proxy.delay(-1)
    with pytest.raises(EnSyncValidationError, match="above 0"):
        proxy.throttle(0)
    with pytest.raises(EnSyncValidationError, match="1 or more"):
        proxy.slicer(1, max_size=0)
    with pytest.raises(EnSyncValidationError, match="negative"):
        proxy.cut_after(-1, "upstream")
    with pytest.raises(EnSyncValidationError, match="reset, close, stall, black_hole"):
        proxy.cut_after(1, "upstream", how="explode")  # type: ignore[arg-type]


async def test_repr_says_what_is_wrong_now(proxy: FaultProxy) -> None:
    proxy.delay(0.5, "downstream")
    assert repr(proxy).endswith("0 connections, downstream delayed>")


async def test_it_must_run_to_refuse() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        FaultProxy("localhost:1").refuse()
