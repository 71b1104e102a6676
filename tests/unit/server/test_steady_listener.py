"""A listener that goes on when accepting fails, and does not take more than it can serve."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketListener, SocketStream
from anyio.streams.stapled import MultiListener

from ensync.server.admin import open_admin
from ensync.server.listening import port_of
from ensync.server.local import LocalEngine
from ensync.server.steady_listener import SteadyListener
from ensync.server.ui import open_page
from tests.unit.server.http_client import talk

pytestmark = pytest.mark.anyio

FULL = OSError(errno.EMFILE, "Too many open files")


@asynccontextmanager
async def listening(at_once: int = 64) -> AsyncIterator[SteadyListener]:
    found = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with SteadyListener([found], at_once) as listener:
        yield listener


def fail_to_accept(
    monkeypatch: pytest.MonkeyPatch, listener: MultiListener[SocketStream], *errors: Exception
) -> list[Exception]:
    """Has accepting fail, once with each error; returns those that are still to come."""
    (accepting,) = listener.listeners
    assert isinstance(accepting, SocketListener)
    accept, to_come = accepting.accept, list(errors)

    async def failing() -> SocketStream:
        if to_come:
            raise to_come.pop(0)
        return await accept()

    monkeypatch.setattr(accepting, "accept", failing)
    return to_come


async def echo(stream: SocketStream) -> None:
    async with stream:
        await stream.send(await stream.receive())


async def test_it_goes_on_when_accepting_fails_and_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as listener, anyio.create_task_group() as tasks:
        to_come = fail_to_accept(monkeypatch, listener, FULL, anyio.BrokenResourceError(), FULL)
        tasks.start_soon(listener.serve, echo)
        assert await talk(port_of(listener), b"here") == b"here"
        assert to_come == []
        tasks.cancel_scope.cancel()
    (warning,) = caplog.records
    assert (warning.levelname, "Too many open files" in warning.message) == ("WARNING", True)


async def test_it_ends_when_it_is_closed() -> None:
    with anyio.fail_after(10):
        async with listening() as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo)
            assert await talk(port_of(listener), b"here") == b"here"
            await listener.aclose()


async def test_more_than_it_can_serve_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        listening(at_once=2) as listener,
        anyio.create_task_group() as tasks,
        AsyncExitStack() as stack,
    ):
        tasks.start_soon(listener.serve, echo_until_the_end)
        port = port_of(listener)
        first, _second = [await served(port, stack) for _ in range(2)]
        for _ in range(3):
            assert await what_comes(await anyio.connect_tcp("127.0.0.1", port)) == b""
        await first.send_eof()
        assert await what_comes(first) == b""
        await anyio.wait_all_tasks_blocked()
        await served(port, stack)
        tasks.cancel_scope.cancel()
    (warning,) = caplog.records
    assert warning.message == "more than 2 connections at once: closing the others"


async def echo_until_the_end(stream: SocketStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk)


async def served(port: int, stack: AsyncExitStack) -> SocketStream:
    stream = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
    await stream.send(b"here")
    with anyio.fail_after(10):
        assert await stream.receive() == b"here"
    return stream


async def what_comes(stream: SocketStream) -> bytes:
    with anyio.fail_after(10):
        async with stream:
            return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("what", ["admin", "page"])
async def test_an_engine_goes_on_without_a_free_file_descriptor(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = anyio.create_tcp_listener
    to_come: list[list[Exception]] = []

    async def create_failing(local_host: str, local_port: int) -> MultiListener[SocketStream]:
        listener = await create(local_host=local_host, local_port=local_port)
        to_come.append(fail_to_accept(monkeypatch, listener, FULL))
        return listener

    async with LocalEngine() as engine:
        monkeypatch.setattr(anyio, "create_tcp_listener", create_failing)
        async with open_admin(engine) if what == "admin" else open_page(engine) as endpoint:
            port = int(endpoint.url.split(":")[2].partition("/")[0])
            assert (await talk(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
    assert to_come == [[]]
