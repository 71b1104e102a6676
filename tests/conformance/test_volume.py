"""Ten thousand events: exactly once, acknowledged, and nothing left."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from tests.conformance.harness import Target

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EVENTS = 10_000


def outgoing(app_id: str, event_name: str) -> Iterator[ensync.OutgoingEvent]:
    for number in range(EVENTS):
        payload = {"number": number, "padding": "x" * 220}
        yield ensync.OutgoingEvent(event_name, [app_id], payload)


@pytest.mark.timeout(120)
async def test_each_arrives_once_and_is_acknowledged(
    target: Target, engine: LocalEngine, event_name: str
) -> None:
    numbers: list[int] = []

    async def publish(client: ensync.EnSyncClient, app_id: str) -> None:
        async with client.publish_many(outgoing(app_id, event_name)) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()

    async with (
        target.connect() as consumer,
        target.connect(target.other_keys) as publisher,
        consumer.subscribe(event_name) as subscription,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(publish, publisher, consumer.app_id)
        async for event in subscription:
            numbers.append(event.payload["number"])
            if len(numbers) == EVENTS:
                break
    assert sorted(numbers) == list(range(EVENTS))
    statistics = engine.statistics()
    assert (statistics.acknowledged, statistics.redelivered) == (EVENTS, 0)
    assert (statistics.in_hand, statistics.subscriptions) == (0, 0)
    assert subscription.statistics().unconfirmed == 0
