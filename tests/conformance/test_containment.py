"""What goes wrong below, in asyncio's callbacks and tasks, never ends the user's program."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection

import ensync
from ensync import websocket_socket
from ensync.transports import websocket_link
from ensync.transports.corked import CorkedTransport
from ensync.transports.grpc_protocol import ClientProtocol
from tests.conformance.harness import PATIENCE, Target, reconnected

pytestmark = [pytest.mark.anyio, pytest.mark.local_engine]

INJECTED = "injected into the transport"
FAULTS: dict[str, dict[str, tuple[Any, str]]] = {
    "grpc": {
        "a protocol's callback": (ClientProtocol, "data_received"),
        "a frame's handler": (ClientProtocol, "_process"),
        "a callback of the loop": (CorkedTransport, "_flush_as_scheduled"),
    },
    "websocket": {
        "a protocol's callback": (ClientConnection, "data_received"),
        "the reader's task": (websocket_link, "parse_frame"),
        "the writer's task": (websocket_socket, "send"),
    },
}
CASES = [(transport, fault) for transport, faults in FAULTS.items() for fault in faults]

# The one transport's callback that fails unheard is noticed by a missing sign of life.
OPTIONS: dict[str, Any] = {
    "heartbeat_interval": 1.0,
    "reconnect": ensync.Reconnect(initial=0.2, maximum=0.2),
}


def make_failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Callable[[], None]:
    """Returns what makes the next call of that function raise."""
    function = getattr(owner, name)
    armed = False

    def fail_once(*args: Any, **keywords: Any) -> Any:
        nonlocal armed
        if armed:
            armed = False
            raise LookupError(INJECTED)
        return function(*args, **keywords)

    def arm() -> None:
        nonlocal armed
        armed = True

    monkeypatch.setattr(owner, name, fail_once)
    return arm


@pytest.fixture(autouse=True)
async def a_loop_as_programs_have_it(anyio_backend_name: str) -> None:
    # anyio's plugin fails a test by whatever a loop's exception handler gets.
    if anyio_backend_name == "asyncio":
        asyncio.get_running_loop().set_exception_handler(None)


class Watched:
    """A user's program: a loop over a subscription, and an eye on the client's state."""

    def __init__(self) -> None:
        self.states: list[ensync.ClientState] = []
        self.seen: list[Any] = []
        self.arrived = anyio.Event()

    async def watch(self, client: ensync.EnSyncClient) -> None:
        async for state in client.states():
            self.states.append(state)

    async def listen(self, subscription: ensync.Subscription[Any]) -> None:
        async for event in subscription:
            self.seen.append(event.payload)
            if event.payload == "after":
                self.arrived.set()


def reports(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The errors in the log that tell of what was injected."""
    return [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING
        and INJECTED in f"{record.getMessage()} {record.exc_info}"
    ]


async def run_through(
    target: Target, event_name: str, fail: Callable[[ensync.EnSyncClient], Any]
) -> Watched:
    """Something fails under a client at work; an event that is published then arrives."""
    program = Watched()
    with anyio.fail_after(3 * PATIENCE):
        async with (
            target.connect(**OPTIONS) as client,
            client.subscribe(event_name) as subscription,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(program.watch, client)
            tasks.start_soon(program.listen, subscription)
            await client.publish(event_name, [client.app_id], "before")
            await fail(client)
            await client.publish(event_name, [client.app_id], "after", timeout=2 * PATIENCE)
            await program.arrived.wait()
            tasks.cancel_scope.cancel()
    return program


@pytest.mark.parametrize(("transport", "fault"), CASES)
async def test_a_fault_in_the_transport_is_a_lost_link(
    target: Target,
    event_name: str,
    transport: str,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ensync")
    arm = make_failing(monkeypatch, *FAULTS[transport][fault])

    async def fail(client: ensync.EnSyncClient) -> None:
        before = client.client_id
        arm()
        with anyio.fail_after(PATIENCE):
            with suppress(ensync.EnSyncPublishError):
                await client.publish(event_name, [client.app_id], "meanwhile")
            await reconnected(client, before)

    program = await run_through(target, event_name, fail)
    assert program.states[:3] == [
        ensync.ClientState.CONNECTED,
        ensync.ClientState.RECONNECTING,
        ensync.ClientState.CONNECTED,
    ]
    lost = [r for r in caplog.records if r.getMessage().startswith("connection lost")]
    assert len(lost) == 1
    told = reports(caplog)
    # A frame that can't be handled is named as what the link was lost by, and is no error.
    assert len(told) == 1 or INJECTED in lost[0].getMessage()
    assert len(told) <= 1


async def test_a_task_that_nobody_waits_for_is_no_more_than_a_line_in_the_log(
    target: Target, event_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise LookupError(INJECTED)

    async def start_orphan() -> None:
        asyncio.get_running_loop().create_task(broken(), name="the orphan")
        for _ in range(3):
            await asyncio.sleep(0)

    async def fail(client: ensync.EnSyncClient) -> None:
        await client._session.side.run(start_orphan)
        gc.collect()

    program = await run_through(target, event_name, fail)
    assert program.states == [ensync.ClientState.CONNECTED]
    assert program.seen == ["before", "after"]
    assert len(reports(caplog)) == 1


async def test_a_callback_of_anybodys_is_no_more_than_a_line_in_the_log(
    target: Target, event_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise LookupError(INJECTED)

    async def fail(client: ensync.EnSyncClient) -> None:
        client._session.side.call_soon(broken)
        await anyio.lowlevel.checkpoint()

    program = await run_through(target, event_name, fail)
    assert program.states == [ensync.ClientState.CONNECTED]
    assert len(reports(caplog)) == 1
