"""What the fault proxy does to connections, open and new."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import anyio
import pytest
from anyio.abc import SocketAttribute

from ensync.scopes import background_tasks
from ensync.testing import FaultProxy
from ensync.testing.listener import Listener
from tests.unit.testing.echo import (
    Echo,
    assert_reset,
    connect,
    echo_server,
    echoes,
    eventually,
    many_turns,
    reset_by_client,
    within,
)

pytestmark = pytest.mark.anyio


# Ends


@pytest.mark.all_loops
async def test_reset_ends_both_sides_by_reset(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"x")
            proxy.reset()
            await assert_reset(stream)
        await echo.ended.wait()
        await proxy.wait_connections(0)
    assert bytes(echo.received) == b"x<reset>"


async def test_nothing_moves_after_reset(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"x")
            raw = stream.extra(SocketAttribute.raw_socket)
            fd = os.dup(raw.fileno())
            os.write(fd, b"too late")
            os.close(fd)
            proxy.reset()
            await proxy.wait_connections(0)
            await echo.ended.wait()
    assert bytes(echo.received) == b"x<reset>"


@pytest.mark.parametrize("fault", ["stall", "delay", "throttle", "black_hole"])
async def test_reset_works_during_every_other_fault(proxy: FaultProxy, fault: str) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"x")
            start_fault(proxy, fault)
            await stream.send(b"yyy")
            proxy.reset()
            await assert_reset(stream)
            await proxy.wait_connections(0)


def start_fault(proxy: FaultProxy, fault: str) -> None:
    if fault == "delay":
        proxy.delay(3600)
    elif fault == "throttle":
        proxy.throttle(0.001)
    else:
        getattr(proxy, fault)()


async def test_a_clients_reset_reaches_the_engine(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        stream = await connect(proxy)
        assert await echoes(stream, b"x")
        await reset_by_client(stream)
        await proxy.wait_connections(0)
        await echo.ended.wait()
    assert bytes(echo.received) == b"x<reset>"


async def test_close_ends_both_sides_in_an_orderly_way(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"x")
            proxy.close()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await echo.ended.wait()
        await proxy.wait_connections(0)
    assert bytes(echo.received) == b"x"


async def test_half_close_upstream_ends_only_that_way(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"x")
            proxy.half_close("upstream")
            await echo.ended.wait()


async def test_half_close_downstream_lets_requests_pass(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"x")
            proxy.half_close("downstream")
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.send(b"still heard")
            await eventually(lambda: bytes(echo.received) == b"xstill heard")


# New connections


@pytest.mark.all_loops
async def test_refuse_and_heal(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as old:
            assert await echoes(old, b"x")
            proxy.refuse()
            with pytest.raises(OSError, match=r"refused|connection attempts failed"):
                await connect(proxy)
            proxy.refuse()
            assert await echoes(old, b"open ones go on")
            proxy.heal()
            async with await connect(proxy) as new:
                assert await echoes(new, b"y")
    assert proxy.accepted_total == 2


@pytest.mark.parametrize("fault", ["refuse", "hang"])
async def test_a_fault_just_when_a_caller_has_come(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_readable = anyio.wait_readable
    has_come, healed = anyio.Event(), anyio.Event()

    async def readable_and_then(waited_for: socket.socket) -> None:
        await wait_readable(waited_for)
        if not has_come.is_set():
            getattr(listener, fault)()
            has_come.set()

    async def heal_and_call() -> None:
        await has_come.wait()
        await many_turns()
        healed.set()
        listener.open()
        later_caller.connect_ex(("127.0.0.1", listener.port))

    with within(), closing(Listener("127.0.0.1", 0)) as listener, socket.socket() as later_caller:
        listener.open()
        monkeypatch.setattr(anyio, "wait_readable", readable_and_then)
        with socket.create_connection(("127.0.0.1", listener.port)):
            async with background_tasks() as tasks:
                tasks.start_soon(heal_and_call)
                accepted = await listener.accept()
    accepted.close()
    assert healed.is_set()


async def test_a_refusing_port_stays_taken(proxy: FaultProxy) -> None:
    proxy.refuse()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", proxy.port))


async def test_reset_new_accepts_and_resets(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as old:
            assert await echoes(old, b"x")
            proxy.reset_new()
            async with await connect(proxy) as new:
                await assert_reset(new)
            assert await echoes(old, b"y")
            proxy.heal()
            async with await connect(proxy) as new:
                assert await echoes(new, b"z")
    assert bytes(echo.received) == b"xyz"


async def test_hang_new_answers_nobody(proxy: FaultProxy) -> None:
    with within():
        proxy.hang_new()
        async with background_tasks() as tasks:
            tasks.start_soon(connect, proxy)
            await many_turns()
        assert proxy.accepted_total == 0
        proxy.heal()
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"x")


async def test_an_absent_engine_looks_like_a_broken_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with within():
            async with FaultProxy(unused.getsockname()) as proxy, await connect(proxy) as stream:
                await assert_reset(stream)
                await proxy.wait_connections(0)


async def test_retarget_sends_new_connections_elsewhere(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with echo_server() as other, await connect(proxy) as old:
            assert await echoes(old, b"a")
            proxy.retarget(other.url)
            async with await connect(proxy) as new:
                assert await echoes(new, b"b")
            assert await echoes(old, b"c")
            assert (bytes(echo.received), bytes(other.received)) == (b"ac", b"b")
