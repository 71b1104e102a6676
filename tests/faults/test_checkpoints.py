"""A cancellation, at whichever checkpoint, is neither an acknowledgement nor a discard."""

from __future__ import annotations

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import PATIENCE, Target
from tests.faults.checkpoint_stage import Play, try_each_checkpoint
from tests.faults.checkpoints import Way
from tests.faults.control_plays import CONTROL_PLAYS
from tests.faults.delivery_plays import DELIVERY_PLAYS

pytestmark = pytest.mark.anyio

each_play = pytest.mark.parametrize(
    "kind", [*DELIVERY_PLAYS, *CONTROL_PLAYS], ids=lambda kind: kind.__name__
)


@each_play
async def test_a_scope_cancelled_at_each_checkpoint(
    target: Target, engine: LocalEngine, faults: Faults, kind: type[Play]
) -> None:
    await try_each_checkpoint(target, engine, faults, kind, [Way.SUSPENDING, Way.RESUMING])


@each_play
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_cancelled_at_each_checkpoint(
    target: Target, engine: LocalEngine, faults: Faults, kind: type[Play]
) -> None:
    """As ``asyncio.timeout()`` and the end of ``asyncio.run()`` do it."""
    await try_each_checkpoint(target, engine, faults, kind, [Way.NATIVE, Way.NATIVE_RESUMING])


async def test_a_cancellation_wins_over_the_loss_of_the_link_that_it_caused(
    client: ensync.EnSyncClient, faults: Faults
) -> None:
    """A WebSocket is reset with a request of which nobody wants the reply any more."""
    faults.hold("publish", count=None)
    first, both = anyio.CancelScope(), anyio.CancelScope()

    async def publish_first() -> None:
        try:
            with first:
                await client.publish("orders", [client.app_id], 1)
        finally:
            both.cancel()

    with anyio.fail_after(PATIENCE), both:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish_first)
            tasks.start_soon(client.publish, "orders", [client.app_id], 2)
            await faults.wait_calls("publish", 2)
            first.cancel()
    assert both.cancelled_caught
