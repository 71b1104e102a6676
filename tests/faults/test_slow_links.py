"""A link that is slow and lives is not taken for dead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

import ensync
from ensync.testing import FaultProxy
from tests.conformance.harness import Target

pytestmark = pytest.mark.anyio

HEARTBEAT = 0.5
# Many heartbeats' worth of what is sent below, and several steps of the proxy's in each.
BYTES_PER_SECOND = 100_000
SMALL_BUFFER = 8 * 1024
# Far more than it takes.
TIMEOUT = 60.0


@asynccontextmanager
async def slowly(target: Target) -> AsyncIterator[ensync.EnSyncClient]:
    """A client behind a network that takes little at a time; its link outlives the block."""
    async with (
        FaultProxy(target.url, buffer_size=SMALL_BUFFER) as proxy,
        target._replace(url=proxy.url).connect(
            heartbeat_interval=HEARTBEAT, request_timeout=TIMEOUT
        ) as client,
    ):
        proxy.throttle(BYTES_PER_SECOND, "upstream")
        yield client
        assert proxy.accepted_total == 1
        proxy.heal()


async def test_a_large_event(target: Target, event_name: str) -> None:
    async with slowly(target) as client:
        began = anyio.current_time()
        await client.publish(event_name, [client.app_id], "x" * 200_000)
        assert anyio.current_time() - began > 3 * HEARTBEAT


async def test_many_events(target: Target, event_name: str) -> None:
    async with slowly(target) as client:
        began = anyio.current_time()
        events = (
            ensync.OutgoingEvent(event_name, [client.app_id], "x" * 1_500) for _ in range(150)
        )
        async with client.publish_many(events, max_in_flight=150) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()
        assert anyio.current_time() - began > 3 * HEARTBEAT


async def test_a_large_event_that_arrives(target: Target, event_name: str) -> None:
    async with target.connect() as other:
        await other.publish(event_name, [other.app_id], "x" * 200_000)
    async with (
        FaultProxy(target.url, buffer_size=SMALL_BUFFER) as proxy,
        target._replace(url=proxy.url).connect(
            heartbeat_interval=HEARTBEAT, request_timeout=TIMEOUT
        ) as client,
    ):
        proxy.throttle(BYTES_PER_SECOND, "downstream")
        async with client.subscribe(event_name) as subscription:
            async for event in subscription:
                assert len(event.payload) == 200_000
                break
        assert proxy.accepted_total == 1
