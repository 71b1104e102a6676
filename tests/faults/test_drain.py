"""Leaving with 3 in hand and 20 buffered: 3 are settled, and 20 are there for the next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults, RestartableEngine
from tests.conformance.harness import (
    PATIENCE,
    Keys,
    Target,
    publish_all,
    take,
    unsettled,
)
from tests.faults.census import Census
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio

IN_HAND, BUFFERED = 3, 20
ALL = list(range(IN_HAND + BUFFERED))
REST = ALL[IN_HAND:]

DRAIN = 0.2
# Closing a connection may take a second, and a busy machine may take its time.
SLACK = 4.0

Subscription = ensync.Subscription[int]
Event = ensync.Event[int]


async def all_are_here(subscription: Subscription) -> None:
    """Waits until what is not in hand is in the buffer."""
    await until(lambda: subscription.statistics().received == len(ALL))
    assert subscription.statistics().buffered == BUFFERED


async def _settled_by_hand(subscription: Subscription) -> None:
    events = await take(subscription, IN_HAND)
    await all_are_here(subscription)
    for event in events:
        await event.ack()


async def _settled_by_their_scopes(subscription: Subscription) -> None:
    events = await take(subscription, IN_HAND)
    await all_are_here(subscription)
    for event in events:
        async with event.settle():
            pass


async def _in_a_loop_each(subscription: Subscription) -> None:
    """Several tasks, each with an event in hand, and each satisfied with it."""
    in_hand = 0
    all_have_one = anyio.Event()

    async def work() -> None:
        nonlocal in_hand
        async for _ in subscription:
            in_hand += 1
            if in_hand == IN_HAND:
                all_have_one.set()
            await all_have_one.wait()
            break

    async with anyio.create_task_group() as tasks:
        for _ in range(IN_HAND):
            tasks.start_soon(work)
    await all_are_here(subscription)


async def _by_handlers_that_finish(subscription: Subscription) -> None:
    """They are told to end, and have one thing to finish."""
    in_hand = 0
    all_are_busy = anyio.Event()

    async def handle(_event: Event) -> None:
        nonlocal in_hand
        in_hand += 1
        if in_hand == IN_HAND:
            all_are_busy.set()
        with anyio.CancelScope(shield=True):
            await told_to_end.wait()

    told_to_end = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: subscription.for_each(handle, concurrency=IN_HAND))
        await all_are_busy.wait()
        await all_are_here(subscription)
        tasks.cancel_scope.cancel()
        told_to_end.set()


Work = Callable[[Subscription], Awaitable[None]]
WORKS: dict[str, tuple[Work, bool]] = {
    "settled by hand": (_settled_by_hand, False),
    "settled by their scopes": (_settled_by_their_scopes, False),
    "in a loop each": (_in_a_loop_each, True),
    "by handlers that finish": (_by_handlers_that_finish, True),
}


@pytest.mark.parametrize(("work", "auto_ack"), WORKS.values(), ids=WORKS)
async def test_3_are_settled_and_20_are_there_at_once(
    target: Target, engine: LocalEngine, event_name: str, work: Work, auto_ack: bool
) -> None:
    async with target.connect() as client, target.connect() as next_client:
        census = await Census.at_rest()
        await publish_all(client, event_name, ALL)
        with anyio.fail_after(PATIENCE):
            async with client.subscribe(event_name, auto_ack=auto_ack) as subscription:
                await work(subscription)
            async with next_client.subscribe(event_name) as following:
                events = await take(following, BUFFERED)
        assert [event.payload for event in events] == REST
        await census.is_the_same_again()
    assert engine.statistics().acknowledged == len(ALL)
    assert subscription.statistics().acknowledged == IN_HAND


async def test_cancelled_from_around_its_client_it_still_settles_what_is_done(
    target: Target,
    engine: LocalEngine,
    faults: Faults,
    event_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Acknowledgements are on their way when the whole program is told to end."""
    held = faults.hold("acknowledge", count=None)
    scope = anyio.CancelScope()

    async def release() -> None:
        # The program is on its way out, and waits.
        await anyio.wait_all_tasks_blocked()
        held.cancel()

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(PATIENCE), scope:
            async with (
                target.connect(drain_timeout=2 * PATIENCE) as client,
                client.subscribe(event_name) as subscription,
            ):
                await publish_all(client, event_name, ALL)
                # Asking for the fourth acknowledges the third.
                await take(subscription, IN_HAND + 1)
                await all_are_here_but_one(subscription)
                scope.cancel()
                tasks.start_soon(release)
                await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert engine.statistics().acknowledged == IN_HAND
    assert await unsettled(target, event_name) == REST
    assert not caplog.records


async def all_are_here_but_one(subscription: Subscription) -> None:
    await until(lambda: subscription.statistics().received == len(ALL))
    assert subscription.statistics().in_hand == 1
    assert subscription.statistics().unconfirmed == IN_HAND


# The engine is gone


@asynccontextmanager
async def restartable(transport: str) -> AsyncIterator[tuple[RestartableEngine, Target]]:
    async with RestartableEngine() as engine:
        keys = Keys.of(engine.create_app("app"))
        url = engine.url if transport == "grpc" else engine.websocket_url
        yield engine, Target(url, keys, keys)


async def _stopped(engine: RestartableEngine) -> None:
    await engine.stop()


async def _crashed(engine: RestartableEngine) -> None:
    await engine.stop(crash=True)


async def _frozen(engine: RestartableEngine) -> None:
    engine.faults.freeze_connections()


Ending = Callable[[RestartableEngine], Awaitable[None]]


@pytest.mark.parametrize("end", [_stopped, _crashed, _frozen], ids=["stop", "crash", "freeze"])
async def test_when_the_engine_is_gone_it_leaves_in_time_and_loses_nothing(
    transport: str, end: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    async with restartable(transport) as (engine, target):
        census = await Census.at_rest()
        seconds = await leave_without(engine, target, end)
        assert seconds < DRAIN + SLACK
        # What was done with could not be confirmed: the log says that it may come again.
        assert f"{IN_HAND} acknowledgements unconfirmed" in caplog.text
        await engine.stop(crash=True)
        await engine.start()
        await until(lambda: not engine.engine.statistics().in_hand)
        assert await unsettled(target, "orders") == ALL
        await census.is_the_same_again()


async def leave_without(engine: RestartableEngine, target: Target, end: Ending) -> float:
    """Leaves a client whose engine has ended; returns how long it took."""
    async with (
        target.connect(drain_timeout=DRAIN) as client,
        client.subscribe("orders") as subscription,
    ):
        await publish_all(client, "orders", ALL)
        await _in_a_loop_each(subscription)
        await end(engine)
        began = anyio.current_time()
    return anyio.current_time() - began
