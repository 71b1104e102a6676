"""However a program ends, and however often it reconnects, nothing is left or piles up.

ENSYNC_RECONNECTS says how often it reconnects.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress

import anyio
import anyio.lowlevel
import pytest
import trio_asyncio

import ensync
from ensync.server.retention import Retention
from ensync.testing import Faults
from tests.conformance.harness import PATIENCE, Keys, Target, opened, publish_all, take
from tests.faults import soak_census
from tests.faults.census import Census

pytestmark = pytest.mark.anyio

RECONNECTS = int(os.environ.get("ENSYNC_RECONNECTS", "150"))
# What is made once, such as caches, is there by then.
WARM = 50
AT_ONCE = ensync.Reconnect(initial=1e-6, maximum=1e-6, max_attempts=None)
MEMORY_SLACK_MIB = 3.0
EVENTS = 3
# More subscriptions than fit on one connection, which keeps half of its streams for calls.
FEW_STREAMS, SUBSCRIPTIONS = 3, 3


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


class Reader:
    """A loop over one subscription, that goes on from time to time."""

    def __init__(self, client: ensync.EnSyncClient, subscription: ensync.Subscription[int]) -> None:
        self._client = client
        self._name = subscription.event_name
        self._events = aiter(subscription)
        self._published = 0

    async def take_some(self) -> None:
        """Leaves with one event in hand, and acknowledgements on their way."""
        numbers = range(self._published, self._published + EVENTS)
        self._published += EVENTS
        await publish_all(self._client, self._name, numbers)
        with anyio.fail_after(PATIENCE):
            assert [(await anext(self._events)).payload for _ in numbers] == [*numbers]


async def reconnect(readers: Sequence[Reader], number: int, faults: Faults) -> None:
    """Loses the link, and every connection, in the middle of a loop, and goes on."""
    await readers[number % len(readers)].take_some()
    subscribes = faults.calls("subscribe")
    faults.abort_connections()
    await faults.wait_calls("subscribe", subscribes + len(readers))


@pytest.mark.timeout(60 + RECONNECTS // 5)
async def test_reconnecting_piles_nothing_up(transport: str, faults: Faults) -> None:
    async with (
        opened(
            transport,
            hooks=faults,
            # Settled events are kept, and would be taken for a leak.
            retention=Retention(events=10),
            max_concurrent_streams=FEW_STREAMS,
        ) as (target, engine),
        target.connect(reconnect=AT_ONCE) as client,
        AsyncExitStack() as stack,
    ):
        readers = [
            Reader(client, await stack.enter_async_context(client.subscribe(f"orders/{number}")))
            for number in range(SUBSCRIPTIONS)
        ]
        for number in range(WARM):
            await reconnect(readers, number, faults)
        before = await at_rest()
        for number in range(WARM, RECONNECTS):
            await reconnect(readers, number, faults)
        after = await at_rest()
    print(f"after {WARM}: {before}; after {RECONNECTS}: {after}")
    assert (after.tasks, after.files) == (before.tasks, before.files)
    assert after.memory_mib < before.memory_mib + MEMORY_SLACK_MIB
    assert engine.statistics().acknowledged == RECONNECTS * EVENTS


async def at_rest() -> soak_census.Census:
    await anyio.wait_all_tasks_blocked()
    return soak_census.Census.take()
