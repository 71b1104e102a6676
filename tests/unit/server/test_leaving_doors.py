"""Leaving an engine while somebody is just coming in."""

from __future__ import annotations

import socket
from contextlib import closing, suppress

import anyio
import anyio.lowlevel
import pytest

import ensync
from ensync.server.arriving import Arriving
from ensync.server.local import LocalEngine
from ensync.server.stop_accepting import stop_accepting
from ensync.testing import RestartableEngine

pytestmark = [pytest.mark.anyio, pytest.mark.all_loops]

# Less than a door waits for somebody who says nothing while the engine goes on.
SOON = 5.0


def knock(url: str) -> socket.socket:
    """Connects, as far as that goes without waiting; and says nothing."""
    caller = socket.socket()
    caller.setblocking(False)
    with suppress(BlockingIOError):
        caller.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    return caller


@pytest.mark.parametrize("door", ["url", "websocket_url"])
@pytest.mark.parametrize("turns", range(6))
async def test_who_comes_in_last_holds_nothing_up_and_leaves_nothing_open(
    door: str, turns: int
) -> None:
    with anyio.fail_after(SOON):
        async with LocalEngine() as engine:
            caller = knock(getattr(engine, door))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
    caller.close()


@pytest.mark.parametrize("door", ["url", "websocket_url"])
async def test_who_says_nothing_is_shown_out(door: str) -> None:
    with anyio.fail_after(SOON):
        async with LocalEngine() as engine:
            caller = knock(getattr(engine, door))
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
    with closing(caller), suppress(ConnectionResetError):
        caller.settimeout(SOON)
        assert b"" in (caller.recv(1000), caller.recv(1000))


@pytest.mark.parametrize("door", ["url", "websocket_url"])
async def test_what_is_asked_of_an_engine_that_stops_is_done_by_the_next(door: str) -> None:
    with anyio.fail_after(2 * SOON):
        async with RestartableEngine() as engine:
            app = engine.create_app("app")
            async with (
                ensync.connect(
                    getattr(engine, door),
                    app_key=app.app_key,
                    app_secret_key=app.secret_key,
                    reconnect=ensync.Reconnect(initial=0.01, maximum=0.05),
                ) as client,
                anyio.create_task_group() as tasks,
            ):
                await engine.engine.broker.shut_down()
                tasks.start_soon(restart_when_asked, engine)
                async with client.subscribe("orders/new") as subscription:
                    await client.publish("orders/new", [client.app_id], 1)
                    event = await anext(aiter(subscription))
                    assert event.payload == 1


async def restart_when_asked(engine: RestartableEngine) -> None:
    await engine.faults.wait_calls("subscribe", 1)
    await engine.restart()


class WithoutReaders:
    """A server on a loop like that of asyncio on Windows."""

    def __init__(self) -> None:
        self.sockets = [socket.socket()]

    def get_loop(self) -> WithoutReaders:
        return self

    def remove_reader(self, _file: int) -> None:
        raise NotImplementedError


async def test_a_loop_without_readers_can_be_left_too() -> None:
    server = WithoutReaders()
    with closing(server.sockets[0]):
        await stop_accepting(server, Arriving())
