"""Backpressure is bounded and local: who does not read holds up the engine, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import anyio
import pytest

import ensync
from ensync.crypto import seal
from ensync.server.memory import MemoryStore
from ensync.server.store import NewEvent, QueueKey
from ensync.testing import FaultProxy
from tests.conformance.harness import PATIENCE, Keys, Target, opened, take_one
from tests.faults.waiters import state_reached

pytestmark = pytest.mark.anyio

FLOOD, QUIET = "flood", "quiet"
BUFFER_SIZE = 20
SMALL_BUFFER = 64 * 1024
ROUND_TRIPS = 50
# Of how long round trips take without a flood: what is stuck behind one takes for ever, or as
# long as a timer, while a machine that is busy with something else slows down all of them.
AT_MOST = 4.0
ATTEMPTS = 10
MIB = 1 << 20


class Flooded(NamedTuple):
    """A store that is full of events for one app, and clients of its engine."""

    target: Target
    proxy: FaultProxy
    store: MemoryStore

    async def fill(self, count: int, size: int) -> int:
        """Stores events; returns how many bytes they are on the wire."""
        app_id = self.target.keys.app_id
        payload = seal(b'"' + b"x" * size + b'"', app_id)
        for _ in range(count):
            queue = QueueKey(app_id, FLOOD)
            await self.store.append(NewEvent(queue, app_id, payload, "{}"))
        return count * len(payload)


@asynccontextmanager
async def flooded(transport: str) -> AsyncIterator[Flooded]:
    store = MemoryStore()
    # An engine that sets no limit of its own to what a subscription has in hand.
    async with (
        opened(transport, store=store, max_in_flight=1_000_000) as (target, _),
        FaultProxy(target.url, buffer_size=SMALL_BUFFER) as proxy,
    ):
        yield Flooded(target._replace(url=proxy.url), proxy, store)


async def round_trips(client: ensync.EnSyncClient, subscription: ensync.Subscription[Any]) -> float:
    """Publishes to oneself and waits for the event, again and again; returns the seconds."""
    began = anyio.current_time()
    for number in range(ROUND_TRIPS):
        await client.publish(QUIET, [client.app_id], number)
        event = await take_one(subscription)
        assert event.payload == number
        await event.ack()
    return anyio.current_time() - began


class Quiet(NamedTuple):
    """A client's subscription of which nothing is to be felt elsewhere, and the reverse."""

    client: ensync.EnSyncClient
    subscription: ensync.Subscription[Any]
    usual: float

    @classmethod
    async def of(cls, client: ensync.EnSyncClient, subscription: ensync.Subscription[Any]) -> Quiet:
        """Takes the time of its round trips, to compare later ones with."""
        return cls(client, subscription, await round_trips(client, subscription))

    async def stays_fast(self) -> str:
        """Fails unless the best of a few attempts takes about as long as it did; tells how long."""
        seconds: list[float] = []
        while not seconds or min(seconds) > AT_MOST * self.usual:
            assert len(seconds) < ATTEMPTS, f"{self.usual} before, and then {seconds}"
            seconds.append(await round_trips(self.client, self.subscription))
        return f"{seconds[-1]:.3f} s, without the flood {self.usual:.3f} s"


def client_of(
    engine: ensync.EnSyncEngine, keys: Keys
) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
    return engine.create_client(keys.app_key, app_secret_key=keys.secret_key)


class Flood(NamedTuple):
    """So many events, of so many bytes each, and where they come on."""

    events: int
    size: int
    names: tuple[str, str]


# An engine may send other names' events on the first stream, which is held back in another way.
FLOODS = {
    "20000 events, on the first stream": Flood(20_000, 100, (FLOOD, QUIET)),
    "200 MB, on the second stream": Flood(1_000, 110_000, (QUIET, FLOOD)),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_subscription_that_is_never_read(transport: str, flood: Flood) -> None:
    count, size, (first, second) = flood
    async with (
        flooded(transport) as site,
        ensync.EnSyncEngine(site.target.url) as engine,
        client_of(engine, site.target.keys) as client,
        client_of(engine, site.target.other_keys) as other,
        client.subscribe(first, auto_ack=False, buffer_size=BUFFER_SIZE) as one,
        client.subscribe(second, auto_ack=False, buffer_size=BUFFER_SIZE) as another,
        other.subscribe(QUIET, auto_ack=False) as quiet_other,
    ):
        quiet, unread = (another, one) if first == FLOOD else (one, another)
        own, others = await Quiet.of(client, quiet), await Quiet.of(other, quiet_other)
        flood_bytes = await site.fill(count, size)
        told, told_other = await own.stays_fast(), await others.stays_fast()
        taken = site.proxy.bytes_total("downstream")
        print(
            f"{ROUND_TRIPS} round trips: {told}; of another client {told_other};"
            f" {unread.statistics().buffered} of {count} events buffered,"
            f" {taken / MIB:.2f} of {flood_bytes / MIB:.0f} MiB taken from the engine"
        )
        assert unread.statistics().buffered < 2_000
        assert taken < 24 * MIB


async def test_what_was_held_back_comes_when_it_is_read(transport: str) -> None:
    count = 1_000
    async with (
        flooded(transport) as site,
        site.target.connect() as client,
        client.subscribe(FLOOD, buffer_size=BUFFER_SIZE) as subscription,
    ):
        await site.fill(count, 100)
        await anyio.wait_all_tasks_blocked()
        blocks: list[int] = []
        with anyio.fail_after(2 * PATIENCE):
            async for event in subscription:
                blocks.append(event.block)
                if len(blocks) == count:
                    break
    assert blocks == sorted(set(blocks))


SUBSCRIPTIONS = 300


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("transport", ["grpc"])
async def test_300_subscriptions_where_100_streams_are_allowed(transport: str) -> None:
    names = [f"orders/{number}" for number in range(SUBSCRIPTIONS)]
    async with (
        flooded(transport) as site,
        site.target.connect() as client,
        AsyncExitStack() as stack,
    ):
        subscriptions = [
            await stack.enter_async_context(client.subscribe(name, buffer_size=1)) for name in names
        ]
        connections = site.proxy.connections
        assert connections == 4
        await one_event_for_each(client, subscriptions)
        site.proxy.reset()
        await state_reached(client, ensync.ClientState.RECONNECTING)
        await one_event_for_each(client, subscriptions)
        assert site.proxy.connections == connections


async def one_event_for_each(
    client: ensync.EnSyncClient, subscriptions: Sequence[ensync.Subscription[Any]]
) -> None:
    """Publishes for all of them before the first is read: each is held back meanwhile."""
    names = [subscription.event_name for subscription in subscriptions]
    events = [ensync.OutgoingEvent(name, [client.app_id], name) for name in names]
    with anyio.fail_after(3 * PATIENCE):
        async with client.publish_many(events) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()
        for subscription in subscriptions:
            assert (await take_one(subscription)).payload == subscription.event_name
