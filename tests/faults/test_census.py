"""However a program ends, and however often it reconnects, nothing is left or piles up.

ENSYNC_RECONNECTS says how often it reconnects.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest
import trio_asyncio

import ensync
from ensync.server.retention import Retention
from ensync.testing import Faults
from tests.conformance.harness import Keys, Target, opened, publish_all, take, take_one
from tests.faults import soak_census
from tests.faults.census import Census

pytestmark = pytest.mark.anyio

RECONNECTS = int(os.environ.get("ENSYNC_RECONNECTS", "200"))
# What is made once, such as caches, is there by then.
WARM = 50
AT_ONCE = ensync.Reconnect(initial=1e-6, maximum=1e-6, max_attempts=None)
MEMORY_SLACK_MIB = 3.0


async def _success(_scope: anyio.CancelScope) -> None:
    """All is well."""


async def _error(_scope: anyio.CancelScope) -> None:
    raise LookupError


async def _cancel(scope: anyio.CancelScope) -> None:
    scope.cancel()
    await anyio.lowlevel.checkpoint()


End = Callable[[anyio.CancelScope], Awaitable[None]]


async def program(target: Target, name: str, end: End) -> None:
    """Does a little of everything, and ends in the middle of it."""
    with anyio.CancelScope() as scope:
        async with target.connect() as client, client.subscribe(name) as subscription:
            await publish_all(client, name, range(5))
            await take(subscription, 3)
            await end(scope)


async def refused(target: Target) -> None:
    """Does not come far."""
    keys = Keys("w" * 43, target.keys.secret_key)
    async with target.connect(keys):
        pytest.fail("the key is wrong")


async def nothing_is_left_of(run: Callable[[], Awaitable[None]]) -> None:
    census = await Census.at_rest()
    # The engine has opened a loop for asyncio's code; a program elsewhere opens its own.
    loop_of_engine = trio_asyncio.current_loop.set(None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        with suppress(LookupError, ensync.EnSyncAuthenticationError):
            await run()
        gc.collect()
    trio_asyncio.current_loop.reset(loop_of_engine)
    assert caught == []
    await census.is_the_same_again()


@pytest.mark.parametrize("end", [_success, _error, _cancel], ids=["success", "error", "cancel"])
async def test_nothing_is_left_of_a_program(target: Target, event_name: str, end: End) -> None:
    await nothing_is_left_of(lambda: program(target, event_name, end))


async def test_nothing_is_left_of_a_program_that_is_refused(target: Target) -> None:
    await nothing_is_left_of(lambda: refused(target))


async def reconnect(
    client: ensync.EnSyncClient, subscription: ensync.Subscription[int], faults: Faults
) -> None:
    """Loses the link with an event in hand and one in the buffer, and goes on."""
    subscribes = faults.calls("subscribe")
    await publish_all(client, subscription.event_name, [1, 2])
    event = await take_one(subscription)
    faults.abort_connections()
    await faults.wait_calls("subscribe", subscribes + 1)
    await event.ack()
    await (await take_one(subscription)).ack()


@pytest.mark.timeout(60 + RECONNECTS // 5)
async def test_reconnecting_piles_nothing_up(transport: str, faults: Faults) -> None:
    async with (
        # Settled events are kept, and would be taken for a leak.
        opened(transport, hooks=faults, retention=Retention(events=10)) as (target, _),
        target.connect(reconnect=AT_ONCE) as client,
        client.subscribe("orders", auto_ack=False) as subscription,
    ):
        for _ in range(WARM):
            await reconnect(client, subscription, faults)
        before = await at_rest()
        for _ in range(RECONNECTS - WARM):
            await reconnect(client, subscription, faults)
        after = await at_rest()
    print(f"after {WARM}: {before}; after {RECONNECTS}: {after}")
    assert (after.tasks, after.files) == (before.tasks, before.files)
    assert after.memory_mib < before.memory_mib + MEMORY_SLACK_MIB


async def at_rest() -> soak_census.Census:
    await anyio.wait_all_tasks_blocked()
    return soak_census.Census.take()
