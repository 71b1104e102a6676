"""asyncio code beside the user's program: contained, cancelled and cleaned up."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.abc
import trio.lowlevel

import ensync
from ensync.acknowledgements import AcknowledgementPipeline
from ensync.server.local import LocalEngine
from ensync.transports.bridge import (
    being_cancelled,
    latch_type,
    let_interrupts_wait,
    open_asyncio_side,
)
from ensync.transports.grpc import GrpcLink

pytestmark = pytest.mark.anyio


async def on_asyncio() -> str:
    await asyncio.sleep(0)
    return type(asyncio.current_task()).__name__


async def test_asyncio_code_runs(anyio_backend_name: str) -> None:
    async with open_asyncio_side() as side:
        assert await side.run(on_asyncio) == "Task"
    assert anyio_backend_name in {"asyncio", "trio"}


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], scope="module")
async def test_an_error_in_a_callback_does_not_end_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> None:
        raise LookupError("in a callback")

    async with open_asyncio_side() as side:
        side.call_soon(broken)
        await side.run(on_asyncio)
        await side.run(on_asyncio)
        await anyio.lowlevel.checkpoint()
    assert any("in a callback" in str(record.exc_info) for record in caplog.records)


async def test_an_error_of_an_orphaned_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise LookupError("in a task")

    async with open_asyncio_side() as side:
        side.spawn(broken, name="the orphan")
        await side.run(on_asyncio)
        await side.run(on_asyncio)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "the orphan" in errors[0].getMessage()


async def test_its_tasks_end_with_the_scope() -> None:
    ended = False

    async def endless() -> None:
        nonlocal ended
        try:
            await anyio.sleep_forever()
        finally:
            ended = True

    async with open_asyncio_side() as side:
        side.spawn(endless, name="endless")
        await side.run(on_asyncio)
    assert ended


async def test_cancelling_reaches_asyncio_code() -> None:
    cancelled = False

    async def endless() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled = True
            raise

    async with open_asyncio_side() as side:
        with anyio.move_on_after(0.01) as scope:
            await side.run(endless)
    assert scope.cancelled_caught
    assert cancelled


async def test_an_error_comes_through_bare() -> None:
    async def broken() -> None:
        raise LookupError("mine")

    async with open_asyncio_side() as side:
        with pytest.raises(LookupError, match="mine"):
            await side.run(broken)


async def test_an_event_set_on_one_side_wakes_the_other() -> None:
    event = anyio.Event()

    async def set_it() -> None:
        event.set()

    async with open_asyncio_side() as side:
        side.spawn(set_it, name="setter")
        with anyio.fail_after(5):
            await event.wait()


class _Asking(asyncio.Protocol):
    """Says something when it is connected, and asks for the time when it hears something."""

    def __init__(self) -> None:
        self.heard_at: list[float] = []
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self.heard_at.append(anyio.current_time())
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


class _Answering(asyncio.Protocol):
    """Answers each byte by another, so many times."""

    def __init__(self, times: int, lost: anyio.Event) -> None:
        self._left = times
        self._lost = lost
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"?")

    def data_received(self, data: bytes) -> None:
        self._left -= 1
        if self._left > 0:
            self._transport.write(data[:1])
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._lost.set()


class _Steps(trio.abc.Instrument):
    """Counts how often a task of the program goes on."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self.count += 1


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], scope="module")
async def test_what_is_read_costs_one_step_of_a_task() -> None:
    """More of them would make trio slower than asyncio."""
    reads = 100
    lost = [anyio.Event(), anyio.Event()]
    ends = iter([_Answering(reads // 2, over) for over in lost])

    async with open_asyncio_side() as side:
        server = await side.run(
            partial(side.create_server, tls=None), ends.__next__, "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        await side.run(partial(side.create_connection, tls=None), ends.__next__, "127.0.0.1", port)
        steps = _Steps()
        trio.lowlevel.add_instrument(steps)
        for over in lost:
            await over.wait()
        trio.lowlevel.remove_instrument(steps)
        server.close()
    assert reads * 0.9 < steps.count < reads * 1.5


def test_callbacks_know_where_they_run_also_without_anyio_run() -> None:
    async def main() -> None:
        ends: list[_Asking] = []

        def make() -> _Asking:
            ends.append(_Asking())
            return ends[-1]

        async with open_asyncio_side() as side:
            server = await side.create_server(make, "127.0.0.1", 0, tls=None)
            port = server.sockets[0].getsockname()[1]
            await side.create_connection(make, "127.0.0.1", port, tls=None)
            for end in ends:
                await asyncio.wait_for(end.closed.wait(), 5)
            server.close()
            await server.wait_closed()
        assert [len(end.heard_at) for end in ends] == [1, 1]

    asyncio.run(main())


async def test_being_cancelled() -> None:
    assert not being_cancelled()
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert being_cancelled()
        await anyio.lowlevel.checkpoint()
    assert not being_cancelled()


AFTER_TRIO = """
import asyncio, threading, trio
from ensync.transports.bridge import open_asyncio_side

async def main():
    async with open_asyncio_side() as side:
        await side.run(asyncio.sleep, 0)

async def loop_of_asyncio():
    return type(asyncio.get_running_loop())

def check():
    assert asyncio.run(loop_of_asyncio()) is usual

usual = asyncio.run(loop_of_asyncio())
trio.run(main)
assert "trio_asyncio" in __import__("sys").modules
check()
thread = threading.Thread(target=check)
thread.start()
thread.join()
trio.run(main)
"""


def test_an_interrupt_waits_until_a_function_is_done_on_trio() -> None:
    entries: list[str] = []

    def enter_both() -> None:
        entries.append("one")
        signal.raise_signal(signal.SIGINT)
        entries.append("other")

    async def enter() -> None:
        let_interrupts_wait(enter_both)
        enter_both()
        entries.append("after them")
        await trio.lowlevel.checkpoint()
        entries.append("after a checkpoint")

    with pytest.raises(KeyboardInterrupt):
        trio.run(enter)
    assert entries == ["one", "other", "after them"]


def test_a_client_s_books_are_kept_from_interrupts_on_trio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protected: dict[str, set[bool]] = {}

    def note(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def noted(self: Any, *arguments: Any) -> Any:
            protected.setdefault(name, set()).add(trio.lowlevel.currently_ki_protected())
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, noted)

    async def program() -> None:
        async with LocalEngine() as engine:
            app = engine.create_app("app")
            async with (
                ensync.connect(
                    engine.url, app_key=app.app_key, app_secret_key=app.secret_key
                ) as client,
                client.subscribe("orders") as subscription,
            ):
                await client.publish("orders", [client.app_id], 1)
                async for _ in subscription:
                    break

    note(AcknowledgementPipeline, "_wait_in_turn")
    note(GrpcLink, "_call")
    trio.run(program)
    assert protected == {"_wait_in_turn": {True}, "_call": {True}}


def test_asyncio_programs_of_the_same_process_stay_asyncios() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", AFTER_TRIO], check=True, timeout=50)


# Latches


async def test_a_latch_lets_the_task_go_on() -> None:
    latch = latch_type()()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(latch.wait)
        await anyio.wait_all_tasks_blocked()
        latch.set()
        latch.set()


async def test_a_latch_that_is_set_by_then_is_a_checkpoint() -> None:
    latch = latch_type()()
    latch.set()
    await latch.wait()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await latch.wait()
    assert scope.cancelled_caught


async def test_whoever_waits_at_a_latch_may_be_cancelled() -> None:
    latch = latch_type()()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(latch.wait)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    latch.set()


async def test_a_latch_is_set_from_the_asyncio_side() -> None:
    latch = latch_type()()
    async with open_asyncio_side() as side, anyio.create_task_group() as tasks:
        tasks.start_soon(latch.wait)
        await anyio.wait_all_tasks_blocked()
        side.call_soon(latch.set)
