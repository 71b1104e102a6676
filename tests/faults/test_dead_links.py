"""A link that is dead and does not say so is noticed in time, and wakes whoever waits on it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import anyio.abc
import pytest

import ensync
from ensync.testing import FaultProxy
from tests.conformance.harness import PATIENCE, Target, opened, take_one
from tests.faults.waiters import FLOWS, REQUESTS, Waiters, busy_client, state_reached

pytestmark = pytest.mark.anyio

HEARTBEAT = 0.2
# A heartbeat may take as long as there is from one to the next, if requests may take longer.
DEADLINE = HEARTBEAT
# What a busy machine may add.
SLACK = 5.0

SOON = ensync.Reconnect(initial=0.005, maximum=0.02, max_attempts=None)
RECONNECTING, CONNECTED = ensync.ClientState.RECONNECTING, ensync.ClientState.CONNECTED

SMALL_BUFFER = 64 * 1024
# 18 MiB on the wire, of which an operating system's own buffers take a few.
LARGE, LARGE_EVENTS = "x" * 2_000_000, 5


async def fill(
    client: ensync.EnSyncClient, proxy: FaultProxy, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    """Leaves more than 4 MiB to be written, to a link that takes nothing."""
    before = proxy.bytes_total("upstream")
    waiters = Waiters(tasks)
    for number in range(LARGE_EVENTS):
        waiters.start(str(number), lambda: client.publish(name, [client.app_id], LARGE))
    await anyio.wait_all_tasks_blocked()
    assert len(waiters.waiting) == LARGE_EVENTS
    assert proxy.bytes_total("upstream") == before


@pytest.mark.parametrize("to_be_written", ["nothing", "more than 4 MiB"])
async def test_it_is_noticed_within_heartbeat_and_deadline(
    target: Target, event_name: str, to_be_written: str
) -> None:
    with anyio.fail_after(2 * PATIENCE):
        async with (
            FaultProxy(target.url, buffer_size=SMALL_BUFFER) as proxy,
            target._replace(url=proxy.url).connect(
                heartbeat_interval=HEARTBEAT, reconnect=SOON
            ) as client,
            anyio.create_task_group() as tasks,
        ):
            died = anyio.current_time()
            if to_be_written == "nothing":
                proxy.black_hole()
            else:
                proxy.stall()
                await fill(client, proxy, event_name, tasks)
            seconds = await state_reached(client, RECONNECTING) - died
            print(f"noticed after {seconds:.3f} s")
            assert seconds < HEARTBEAT + DEADLINE + SLACK
            proxy.heal()
            await state_reached(client, CONNECTED)
            tasks.cancel_scope.cancel()


async def test_whoever_waits_goes_on_with_the_next_link(
    proxied: Target, proxy: FaultProxy, other_client: ensync.EnSyncClient, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with (
            busy_client(proxied, event_name, heartbeat_interval=HEARTBEAT, reconnect=SOON) as busy,
            anyio.create_task_group() as tasks,
        ):
            proxy.black_hole()
            waiters = busy.wait_for_everything(tasks)
            await state_reached(busy.client, RECONNECTING)
            proxy.heal()
            await other_client.publish(event_name, [busy.client.app_id], "next")
            await waiters.ended(REQUESTS | {"iterator"})
            assert waiters.waiting == {"for_each", "states"}
            assert waiters.results["iterator"].payload == "next"
            assert waiters.results["ack"].action == "acknowledged"
            # What may be done twice is done again; of an event that was sent, nobody knows.
            assert waiters.errors.keys() == {"publish", "publish_many"}
            for error in waiters.errors.values():
                assert isinstance(error, ensync.EnSyncPublishError)
                assert list(error.unknown) == [busy.client.app_id]
            tasks.cancel_scope.cancel()


async def test_whoever_waits_is_told_when_there_is_no_next_link(
    proxied: Target, proxy: FaultProxy, event_name: str
) -> None:
    connect_timeout = 0.4
    with anyio.fail_after(PATIENCE):
        async with (
            busy_client(
                proxied,
                event_name,
                heartbeat_interval=HEARTBEAT,
                connect_timeout=connect_timeout,
                reconnect=ensync.Reconnect(initial=0.01, maximum=0.01, max_attempts=1),
            ) as busy,
            anyio.create_task_group() as tasks,
        ):
            died = anyio.current_time()
            proxy.black_hole()
            waiters = busy.wait_for_everything(tasks)
            await waiters.ended(REQUESTS | FLOWS)
            seconds = max(waiters.ended_at.values()) - died
            print(f"all told after {seconds:.3f} s")
            assert seconds < HEARTBEAT + DEADLINE + connect_timeout + SLACK
            assert waiters.results == {"states": ensync.ClientState.CLOSED}
            for name, error in waiters.errors.items():
                publishing = "publish" in name
                kind = ensync.EnSyncPublishError if publishing else ensync.EnSyncConnectionError
                assert isinstance(error, kind)


@pytest.mark.parametrize("streams", [2, 1])
async def test_a_second_connection_that_dies_alone_is_noticed(streams: int) -> None:
    async with (
        opened("grpc", max_concurrent_streams=4 if streams == 2 else 1) as (target, _),
        FaultProxy(target.url, buffer_size=SMALL_BUFFER) as proxy,
        target._replace(url=proxy.url).connect(
            heartbeat_interval=HEARTBEAT, reconnect=SOON
        ) as client,
        AsyncExitStack() as stack,
    ):
        names = [f"orders/{number}" for number in range(3 if streams == 2 else 1)]
        subscriptions = [await stack.enter_async_context(client.subscribe(name)) for name in names]
        assert proxy.accepted_total == 2
        with anyio.fail_after(PATIENCE):
            # It lives as long as it lives.
            await anyio.sleep(3 * HEARTBEAT)
            assert proxy.accepted_total == 2
            died = anyio.current_time()
            proxy.black_hole(connection=2)
            seconds = await state_reached(client, RECONNECTING) - died
            print(f"noticed after {seconds:.3f} s")
            assert seconds < HEARTBEAT + DEADLINE + SLACK
            await state_reached(client, CONNECTED)
            await client.publish(names[-1], [client.app_id], "next")
            proxy.heal()  # the engine hears of it too, and sends elsewhere what it sent there
            assert (await take_one(subscriptions[-1])).payload == "next"
            # Only the dead one was replaced.
            assert proxy.accepted_total == 3
