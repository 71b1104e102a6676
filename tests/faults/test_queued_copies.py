"""Copies that wait for the engine's stream limit: given up there, they are never sent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults

pytestmark = pytest.mark.anyio

STREAMS = 4
COPIES = 9


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def engine(faults: Faults) -> AsyncIterator[LocalEngine]:
    async with LocalEngine(max_concurrent_streams=STREAMS, hooks=faults) as engine:
        yield engine


@pytest.fixture
async def client(engine: LocalEngine) -> AsyncIterator[ensync.EnSyncClient]:
    app = engine.create_app("shop")
    async with ensync.connect(
        engine.url, app_key=app.app_key, app_secret_key=app.secret_key
    ) as client:
        # After its answer, the engine's limit is known.
        await client.publish("orders", [client.app_id], 0)
        yield client


def recipients(engine: LocalEngine) -> list[str]:
    return [engine.create_app(f"recipient {number}").app_id for number in range(COPIES)]


async def sent_by_now(faults: Faults, client: ensync.EnSyncClient) -> int:
    """How many publishes the engine has heard of, one more after them and the first apart."""
    faults.heal()
    await client.publish("orders", [client.app_id], "and another")
    return faults.calls("publish") - 2


async def test_what_was_not_sent_by_the_deadline_is_rejected_and_never_sent(
    engine: LocalEngine, faults: Faults, client: ensync.EnSyncClient
) -> None:
    faults.hold("publish", count=None)
    with pytest.raises(ensync.EnSyncPublishError) as caught:
        await client.publish("orders", recipients(engine), 1, timeout=1.0)
    assert len(caught.value.unknown) < STREAMS
    assert len(caught.value.rejected) == COPIES - len(caught.value.unknown)
    assert await sent_by_now(faults, client) == len(caught.value.unknown)


async def test_what_was_not_sent_when_it_is_cancelled_is_never_sent(
    engine: LocalEngine, faults: Faults, client: ensync.EnSyncClient
) -> None:
    faults.hold("publish", count=None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.publish, "orders", recipients(engine), 1)
        with anyio.fail_after(10):
            await faults.wait_calls("publish", STREAMS)  # the first, and all but one
        tasks.cancel_scope.cancel()
    assert await sent_by_now(faults, client) == STREAMS - 1
