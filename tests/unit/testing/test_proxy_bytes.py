"""What the fault proxy does to bytes on their way."""

from __future__ import annotations

import math
import os
import random
import socket

import anyio
import pytest
from anyio.abc import SocketStream

from ensync.errors import EnSyncValidationError
from ensync.scopes import background_tasks
from ensync.testing import FaultProxy
from ensync.testing.wire import Slicer, Wire
from tests.unit.testing.echo import (
    Echo,
    assert_reset,
    assert_silent,
    connect,
    drain,
    echoes,
    eventually,
    many_turns,
    receive_exactly,
    reset_by_client,
    still,
    within,
)

pytestmark = pytest.mark.anyio


# Stall and black hole


async def test_stall_keeps_bytes_and_heal_brings_them(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"before")
            proxy.stall()
            await stream.send(b"during")
            await assert_silent(stream)
            assert bytes(echo.received) == b"before"
            assert proxy.bytes_total("upstream") == 6
            proxy.heal()
            assert await receive_exactly(stream, 6) == b"during"


async def test_stall_fills_the_senders_buffers(echo: Echo) -> None:
    with within():
        async with FaultProxy(echo.url, buffer_size=4096) as proxy, await connect(proxy) as stream:
            assert await echoes(stream, b"up")
            proxy.stall()
            sent: list[bool] = []
            async with background_tasks() as tasks:
                tasks.start_soon(send_and_say, stream, bytes(32 * 1024 * 1024), sent)
                await many_turns()
            assert not sent
            assert proxy.bytes_total("upstream") == 2


async def send_and_say(stream: SocketStream, data: bytes, sent: list[bool]) -> None:
    await stream.send(data)
    sent.append(True)


async def test_stall_of_one_direction_lets_the_other_pass(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            proxy.stall("downstream")
            await stream.send(b"question")
            await proxy.wait_bytes("upstream", 8)
            await eventually(lambda: bytes(echo.received) == b"question")
            await assert_silent(stream)
            proxy.heal()
            assert await receive_exactly(stream, 8) == b"question"


async def test_a_new_connection_is_stalled_too(proxy: FaultProxy) -> None:
    proxy.stall()
    with within():
        async with await connect(proxy) as stream:
            await stream.send(b"hello")
            await assert_silent(stream)
            proxy.heal()
            assert await receive_exactly(stream, 5) == b"hello"


async def test_black_hole_takes_everything_and_passes_nothing(
    echo: Echo, proxy: FaultProxy
) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"before")
            proxy.black_hole()
            await stream.send(bytes(8 * 1024 * 1024))
            await proxy.wait_bytes("upstream", 6 + 8 * 1024 * 1024)
            await assert_silent(stream)
    assert bytes(echo.received) == b"before"


async def test_black_hole_of_one_connection_leaves_the_others_alone(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as first, await connect(proxy) as second:
            assert await echoes(first, b"a")
            assert await echoes(second, b"b")
            proxy.black_hole(connection=2)
            await second.send(b"lost")
            await eventually(lambda: proxy.statistics().dropped_upstream == 4)
            await assert_silent(second)
            assert await echoes(first, b"c")
            async with await connect(proxy) as third:
                assert await echoes(third, b"d")
        await many_turns()
        assert proxy.connections == 1  # nobody hears that the second has gone
        proxy.heal()
        await proxy.wait_connections(0)


async def test_black_hole_of_a_connection_that_is_not_there(proxy: FaultProxy) -> None:
    with pytest.raises(EnSyncValidationError, match="connection=1"):
        proxy.black_hole(connection=1)


async def test_black_hole_hides_that_the_client_has_gone(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"x")
            proxy.black_hole()
        await many_turns()
        assert not echo.ended.is_set()
        assert proxy.connections == 1
        proxy.heal()
        await proxy.wait_connections(0)
        await echo.ended.wait()


async def test_what_lost_bytes_stays_a_black_hole(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as old:
            proxy.black_hole()
            await old.send(b"lost")
            await eventually(lambda: proxy.statistics().dropped_upstream == 4)
            proxy.heal()
            await old.send(b"senseless")
            await assert_silent(old)
            async with await connect(proxy) as new:
                assert await echoes(new, b"whole")
    assert bytes(echo.received) == b"whole"


async def test_what_lost_nothing_goes_on(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            assert await echoes(stream, b"before")
            proxy.black_hole()
            proxy.heal()
            assert await echoes(stream, b"after")


async def test_black_hole_frees_a_sender_that_was_blocked() -> None:
    data = bytes(32 * 1024 * 1024)
    with socket.create_server(("127.0.0.1", 0)) as deaf, within():
        target = deaf.getsockname()
        async with FaultProxy(target, buffer_size=65536) as proxy, await connect(proxy) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, data)
                await still(lambda: proxy.bytes_total("upstream"))
                assert proxy.bytes_total("upstream") < len(data)
                proxy.black_hole()
            await proxy.wait_bytes("upstream", len(data))


async def test_black_hole_hides_a_clients_reset(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        stream = await connect(proxy)
        assert await echoes(stream, b"x")
        proxy.black_hole()
        await reset_by_client(stream)
        await many_turns()
        assert not echo.ended.is_set()
        proxy.heal()
        await echo.ended.wait()
    assert bytes(echo.received) == b"x<reset>"


async def test_what_lost_bytes_can_end_only_by_reset(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            proxy.black_hole()
            await stream.send(b"lost")
            await eventually(lambda: proxy.statistics().dropped_upstream == 4)
            proxy.heal()
        await echo.ended.wait()
    assert bytes(echo.received) == b"<reset>"


# Timing


async def round_trip(stream: SocketStream, data: bytes) -> float:
    start = anyio.current_time()
    assert await echoes(stream, data)
    return anyio.current_time() - start


@pytest.mark.mock_clock
async def test_delay_adds_to_each_direction(proxy: FaultProxy) -> None:
    async with await connect(proxy) as stream:
        proxy.delay(1000)
        assert await round_trip(stream, b"x") == pytest.approx(2000)
        proxy.delay(0, "downstream")
        assert await round_trip(stream, b"x") == pytest.approx(1000)
        proxy.delay(0)
        assert await round_trip(stream, b"x") == 0


@pytest.mark.mock_clock
async def test_a_delay_is_not_a_queue(proxy: FaultProxy) -> None:
    async with await connect(proxy) as stream:
        proxy.delay(1000, "upstream")
        start = anyio.current_time()
        for number in range(10):
            await stream.send(b"%d" % number)
            await proxy.wait_bytes("upstream", number + 1)
            await anyio.sleep(10)
        assert await receive_exactly(stream, 10) == b"0123456789"
        assert anyio.current_time() - start == pytest.approx(1090)


async def test_healing_ends_a_delay_under_way(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            proxy.delay(3600)
            await stream.send(b"x")
            await proxy.wait_bytes("upstream", 1)
            proxy.heal()
            assert await receive_exactly(stream, 1) == b"x"


@pytest.mark.mock_clock
async def test_throttle_takes_as_long_as_it_must(proxy: FaultProxy) -> None:
    async with await connect(proxy) as stream:
        proxy.throttle(100, "upstream")
        # The first piece goes at once, and the last need not be waited for.
        assert await round_trip(stream, bytes(10_000)) == pytest.approx(100, abs=0.1)
        proxy.throttle(None)
        assert await round_trip(stream, bytes(10_000)) == 0


async def test_healing_ends_a_throttle_under_way(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            proxy.throttle(0.001)
            await stream.send(b"xyz")
            await eventually(lambda: proxy.bytes_total("downstream") == 1)
            proxy.heal()
            assert await receive_exactly(stream, 3) == b"xyz"


# Data


async def test_slicer_splits_and_loses_nothing(proxy: FaultProxy) -> None:
    data = os.urandom(500)
    sizes: list[int] = []
    with within():
        async with await connect(proxy) as stream:
            proxy.slicer(1, max_size=10, direction="downstream")
            await stream.send(data)
            got = b""
            while len(got) < len(data):
                piece = await stream.receive()
                sizes.append(len(piece))
                got += piece
    assert got == data
    assert len(sizes) >= 50


async def test_healing_in_the_pause_after_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.slicer = Slicer(random.Random(1), max_size=1, pause=math.inf)

    async def healed() -> None:
        wire.heal()

    monkeypatch.setattr("anyio.lowlevel.checkpoint", healed)
    with within():
        await wire.pause()


async def test_corrupt_next_flips_one_chunk(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            proxy.corrupt_next()
            await stream.send(b"\x00\x0f\xff")
            assert await receive_exactly(stream, 3) == b"\xff\xf0\x00"
            assert await echoes(stream, b"intact")


@pytest.mark.parametrize("before", [0, 1, 5, 9])
async def test_cut_after_passes_exactly_so_much_upstream(
    echo: Echo, proxy: FaultProxy, before: int
) -> None:
    with within():
        async with await connect(proxy) as stream:
            cut = proxy.cut_after(before, "upstream")
            await stream.send(b"0123456789")
            await cut.wait()
            await assert_reset(stream)
            await echo.ended.wait()
    assert bytes(echo.received) == b"0123456789"[:before] + b"<reset>"


async def test_cut_after_downstream_cuts_the_reply(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            cut = proxy.cut_after(4, "downstream")
            await stream.send(b"0123456789")
            await assert_reset(stream, b"0123")
    assert cut.is_set()
    assert bytes(echo.received).startswith(b"0123456789")


async def test_cut_counts_over_connections_and_cuts_one(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as first, await connect(proxy) as second:
            cut = proxy.cut_after(5, "upstream")
            assert await echoes(first, b"abc")
            await second.send(b"defg")
            await cut.wait()
            await assert_reset(second)
            assert await echoes(first, b"going on")


async def test_truncate_after_closes_in_an_orderly_way(echo: Echo, proxy: FaultProxy) -> None:
    got = bytearray()
    with within():
        async with await connect(proxy) as stream:
            proxy.truncate_after(4, "downstream")
            await stream.send(b"0123456789")
            await drain(stream, got)
        await echo.ended.wait()
    assert got == b"0123"


async def test_cut_by_stall_brings_the_rest_after_heal(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            cut = proxy.cut_after(4, "downstream", how="stall")
            await stream.send(b"0123456789")
            assert await receive_exactly(stream, 4) == b"0123"
            assert cut.is_set()
            await assert_silent(stream)
            proxy.heal()
            assert await receive_exactly(stream, 6) == b"456789"


async def test_cut_by_black_hole_swallows_the_rest(echo: Echo, proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            proxy.cut_after(4, "upstream", how="black_hole")
            await stream.send(b"0123456789")
            await eventually(lambda: bytes(echo.received) == b"0123")
            await eventually(lambda: proxy.statistics().dropped_upstream == 6)
            await assert_silent(stream)
    assert bytes(echo.received) == b"0123"


async def test_heal_forgets_a_cut_to_come(proxy: FaultProxy) -> None:
    with within():
        async with await connect(proxy) as stream:
            cut = proxy.cut_after(1, "upstream")
            proxy.heal()
            assert await echoes(stream, b"going on")
    assert not cut.is_set()
