"""The reconnect policy, lived: waits as stated, nothing that grows, an end that all are told of."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import anyio
import pytest

import ensync
from ensync.testing import FaultProxy, Faults
from tests.conformance.harness import PATIENCE, Target, reconnected, take_one
from tests.conftest import live_tasks, open_files
from tests.faults.waiters import FLOWS, REQUESTS, Waiters, busy_client, state_reached

pytestmark = pytest.mark.anyio

REFUSALS = 100
# What may be open or running for a moment: the attempt itself, on both of its ends.
MOMENTARY = 4


def footprint() -> tuple[int, int]:
    """How many tasks and open files there are."""
    return len(live_tasks()), len(open_files())


async def refused(proxy: FaultProxy) -> list[tuple[float, int, int]]:
    """Has every attempt refused; gives the time, and the footprint, of each."""
    attempts: list[tuple[float, int, int]] = []
    before = proxy.accepted_total
    proxy.reset_new()
    proxy.reset()
    for number in range(1, REFUSALS + 1):
        await proxy.wait_accepted(before + number)
        attempts.append((anyio.current_time(), *footprint()))
    return attempts


def assert_flat(counts: list[int]) -> None:
    print(f"from {min(counts)} to {max(counts)}")
    assert max(counts) - min(counts) <= MOMENTARY


@pytest.mark.mock_clock
async def test_100_refusals_come_after_waits_as_stated(
    proxied: Target, proxy: FaultProxy, event_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensync.engine.random", SimpleNamespace(random=lambda: 0.5))
    reconnect = ensync.Reconnect(initial=0.5, maximum=30.0, max_attempts=REFUSALS)
    async with (
        proxied.connect(reconnect=reconnect) as client,
        client.subscribe(event_name),
    ):
        began = anyio.current_time()
        attempts = await refused(proxy)
        await state_reached(client, ensync.ClientState.CLOSED)
        times = [began, *(time for time, _, _ in attempts)]
        waits = [round(b - a, 6) for a, b in pairwise(times)]
        assert waits == [min(30.0, 0.5 * 2**n) * 0.5 for n in range(REFUSALS)]
        assert_flat([tasks for _, tasks, _ in attempts])
        assert_flat([files for _, _, files in attempts])
        assert proxy.accepted_total == 1 + REFUSALS


async def test_100_refusals_leave_nothing_behind(
    proxied: Target, proxy: FaultProxy, event_name: str
) -> None:
    reconnect = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=None)
    with anyio.fail_after(2 * PATIENCE):
        async with (
            proxied.connect(reconnect=reconnect) as client,
            client.subscribe(event_name),
        ):
            attempts = await refused(proxy)
            assert_flat([tasks for _, tasks, _ in attempts])
            assert_flat([files for _, _, files in attempts])
            proxy.heal()
            await state_reached(client, ensync.ClientState.CONNECTED)
            await client.publish(event_name, [client.app_id], "after")


async def test_30_lost_connections_leave_nothing_behind(
    target: Target, faults: Faults, event_name: str
) -> None:
    reconnect = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=None)
    prints: list[tuple[int, int]] = []
    with anyio.fail_after(2 * PATIENCE):
        async with (
            target.connect(reconnect=reconnect) as client,
            client.subscribe(event_name),
        ):
            for number in range(2, 32):
                faults.abort_connections()
                await faults.wait_calls("subscribe", number)
                prints.append(footprint())
    assert_flat([tasks for tasks, _ in prints])
    assert_flat([files for _, files in prints])


def assert_told(waiters: Waiters, kind: type[ensync.EnSyncError], code: str) -> None:
    """Whoever waited got an error of this kind, but for those who watch the states."""
    assert waiters.results == {"states": ensync.ClientState.CLOSED}
    for name in (REQUESTS | FLOWS) - {"states", "publish", "publish_many"}:
        assert type(waiters.errors[name]) is kind, name
        assert waiters.errors[name].code == code
    for name in ("publish", "publish_many"):
        assert isinstance(waiters.errors[name], ensync.EnSyncPublishError)


async def test_giving_up_is_told_to_everybody(
    proxied: Target, proxy: FaultProxy, event_name: str
) -> None:
    three = ensync.Reconnect(initial=0.01, maximum=0.02, max_attempts=3)
    with anyio.fail_after(PATIENCE):
        async with (
            busy_client(proxied, event_name, reconnect=three) as busy,
            anyio.create_task_group() as tasks,
        ):
            waiters = busy.wait_for_everything(tasks)
            proxy.reset_new()
            proxy.reset()
            await waiters.ended(REQUESTS | FLOWS)
            assert waiters.results == {"states": ensync.ClientState.CLOSED}
            assert proxy.accepted_total == 1 + 3
            assert_told(waiters, ensync.EnSyncConnectionError, "gave_up")


async def test_a_key_that_is_refused_later_is_told_to_everybody_at_once(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with (
            busy_client(target, event_name) as busy,
            anyio.create_task_group() as tasks,
        ):
            waiters = busy.wait_for_everything(tasks)
            faults.refuse_next("connect", "unknown app key", count=None)
            faults.abort_connections()
            await waiters.ended(REQUESTS | FLOWS)
            assert faults.calls("connect") == 2
            assert_told(waiters, ensync.EnSyncAuthenticationError, "authentication_refused")


FOUR_TIMES = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=4)


async def test_an_engine_that_accepts_everybody_and_drops_them_is_given_up(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with (
            busy_client(target, event_name, reconnect=FOUR_TIMES) as busy,
            anyio.create_task_group() as tasks,
        ):
            await busy.in_hand.ack()
            waiters = Waiters(tasks)
            waiters.start("iterator", lambda: take_one(busy.read))
            for connects in range(2, 6):
                faults.abort_connections()
                await faults.wait_calls("subscribe", 2 * connects)
            faults.abort_connections()
            await waiters.ended({"iterator"})
            assert waiters.errors["iterator"].code == "gave_up"
            assert busy.client.state is ensync.ClientState.CLOSED
    assert faults.calls("connect") == 1 + 4


async def test_as_long_as_something_gets_through_it_goes_on(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with (
            target.connect(reconnect=FOUR_TIMES) as client,
            client.subscribe(event_name) as subscription,
        ):
            for number in range(10):
                await client.publish(event_name, [client.app_id], number)
                assert (await take_one(subscription)).payload == number
                faults.abort_connections()
                await faults.wait_calls("subscribe", 2 + number)
            assert client.state is not ensync.ClientState.CLOSED
    assert faults.calls("connect") >= 11


async def test_so_it_does_as_long_as_it_gets_something_through(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with target.connect(reconnect=FOUR_TIMES) as client:
            for number in range(10):
                await client.publish(event_name, [client.app_id], number)
                lost = client.client_id
                faults.abort_connections()
                await reconnected(client, lost)
    assert faults.calls("connect") == 11
