"""Ten thousand events from one process to another: exactly once, acknowledged, nothing left."""

from __future__ import annotations

import sys

import anyio
import pytest

from ensync.server.local import LocalEngine
from tests.conformance import bulk_publisher
from tests.conformance.harness import Target

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EVENTS = 10_000


@pytest.mark.timeout(300)
async def test_each_arrives_once_and_is_acknowledged(
    target: Target, engine: LocalEngine, event_name: str, anyio_backend_name: str
) -> None:
    numbers: list[int] = []
    accepted: list[int] = []

    async def publish(app_id: str) -> None:
        script, app_key = bulk_publisher.__file__, target.other_keys.app_key
        arguments = [target.url, app_key, app_id, event_name, str(EVENTS), anyio_backend_name]
        done = await anyio.run_process([sys.executable, script, *arguments], stderr=None)
        accepted.append(int(done.stdout))

    async with (
        target.connect() as consumer,
        consumer.subscribe(event_name) as subscription,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(publish, consumer.app_id)
        async for event in subscription:
            numbers.append(event.payload["number"])
            if len(numbers) == EVENTS:
                break
    assert accepted == [EVENTS]
    assert sorted(numbers) == list(range(EVENTS))
    statistics = engine.statistics()
    assert (statistics.acknowledged, statistics.redelivered) == (EVENTS, 0)
    assert (statistics.in_hand, statistics.subscriptions) == (0, 0)
    assert subscription.statistics().unconfirmed == 0
