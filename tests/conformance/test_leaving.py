"""Leaving a block: what is done is settled, what is not is given back, and nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import PATIENCE, Target, publish_all, take, take_one, unsettled

pytestmark = pytest.mark.anyio


async def test_3_in_hand_and_20_buffered(
    client: ensync.EnSyncClient, engine: LocalEngine, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(23))
    async with client.subscribe(event_name) as subscription:
        await take(subscription, 3)
        assert subscription.statistics().in_hand + subscription.statistics().unconfirmed == 3
    assert engine.statistics().acknowledged == 3
    assert engine.statistics().in_hand == 0
    assert await unsettled(target, event_name) == list(range(3, 23))


async def test_the_rest_is_available_to_another_client_at_once(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    async with target.connect() as second_client, second_client.subscribe(event_name) as second:
        await second.pause()
        await publish_all(client, event_name, range(10))
        async with client.subscribe(event_name) as first:
            await take(first, 4)
        await second.resume()
        events = await take(second, 6)
    assert sorted(event.payload for event in events) == list(range(4, 10))


async def test_leaving_with_an_error_settles_nothing_that_is_in_hand(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(5))
    with pytest.raises(LookupError):
        async with client.subscribe(event_name) as subscription:
            await take(subscription, 3)  # asking for the third acknowledged the second
            raise LookupError
    assert await unsettled(target, event_name) == [2, 3, 4]


async def test_leaving_waits_for_acks(
    client: ensync.EnSyncClient, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))
    held = faults.hold("acknowledge", count=None)
    async with anyio.create_task_group() as tasks:

        async def release() -> None:
            await faults.wait_calls("acknowledge", 3)
            held.cancel()

        tasks.start_soon(release)
        async with client.subscribe(event_name) as subscription:
            await take(subscription, 3)
    assert engine.statistics().acknowledged == 3


async def test_leaving_does_not_wait_for_ever(
    target: Target, faults: Faults, event_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with target.connect(drain_timeout=0.2) as client:
        await publish_all(client, event_name, range(3))
        faults.drop_request("acknowledge", count=None)
        with anyio.fail_after(PATIENCE):
            async with client.subscribe(event_name) as subscription:
                await take(subscription, 3)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "3 acknowledgements unconfirmed" in warnings[0]


async def test_leaving_when_the_engine_is_gone(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with (
            target.connect(drain_timeout=0.2) as client,
            client.subscribe(event_name) as subscription,
        ):
            await publish_all(client, event_name, range(3))
            await take_one(subscription)
            faults.freeze_connections()


async def test_leaving_in_the_middle_of_a_back_off(
    target: Target, faults: Faults, event_name: str
) -> None:
    reconnect = ensync.Reconnect(initial=1000, maximum=1000)
    with anyio.fail_after(PATIENCE):
        async with (
            target.connect(reconnect=reconnect, drain_timeout=1000) as client,
            client.subscribe(event_name),
        ):
            faults.fail_next("connect", count=None)
            faults.abort_connections()
            async for state in client.states():
                if state is ensync.ClientState.RECONNECTING:
                    break


async def test_leaving_with_an_error_of_the_users_own(target: Target, event_name: str) -> None:
    with pytest.raises(LookupError, match="mine") as caught:
        async with target.connect() as client, client.subscribe(event_name):
            raise LookupError("mine")
    assert caught.value.__cause__ is None


async def test_leaving_cancelled(target: Target, event_name: str) -> None:
    with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
        async with target.connect() as client, client.subscribe(event_name) as subscription:
            scope.cancel()
            async for _ in subscription:
                pytest.fail("there is no event")
    assert scope.cancelled_caught


async def test_nothing_grows_with_clients_that_come_and_go(
    target: Target, engine: LocalEngine, event_name: str
) -> None:
    async def come_and_go() -> None:
        async with target.connect() as client, client.subscribe(event_name) as subscription:
            await client.publish(event_name, [client.app_id], 1)
            await take_one(subscription)

    await come_and_go()
    gc.collect()
    files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(10):
        await come_and_go()
    gc.collect()
    assert engine.statistics().subscriptions == 0
    if sys.platform == "linux":
        # The engine may take a moment to notice the last one's end.
        assert len(os.listdir("/proc/self/fd")) <= files + 2


INTERRUPTED = """
    import signal, sys, anyio, ensync
    from ensync.server.local import LocalEngine

    # A shell that starts a job in the background has it ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    async def main():
        async with LocalEngine() as engine:
            app = engine.create_app("shop")
            url = engine.url if {transport!r} == "grpc" else engine.websocket_url
            async with ensync.connect(
                url, app_key=app.app_key, app_secret_key=app.secret_key
            ) as client:
                await client.publish("orders", [client.app_id], 1)
                async with client.subscribe("orders") as subscription:
                    async for event in subscription:
                        await event.ack()
                        await anyio.wait_all_tasks_blocked()
                        print("ready", flush=True)

    try:
        anyio.run(main, backend={backend!r})
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"], ids=["by-asyncio", "by-trio"])
def test_keyboard_interrupt_ends_everything(transport: str, backend: str) -> None:
    program = textwrap.dedent(INTERRUPTED.format(transport=transport, backend=backend))
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert (first_line + rest, errors) == ("ready\ninterrupted\n", "")
    assert process.returncode == 0
