"""for_each(): a handler for each event, a bounded number at a time."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import PATIENCE, Target, publish_all, take_one, unsettled

pytestmark = pytest.mark.anyio

Subscription = ensync.Subscription[int]
Event = ensync.Event[int]


class Overlap:
    """A handler that notes how many of it run at once."""

    def __init__(self, limit: int, total: int) -> None:
        self.limit, self.total = limit, total
        self.running = self.most = self.done = 0
        self.full = anyio.Event()
        self.finished = anyio.Event()

    async def handle(self, event: Event) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == self.limit:
            self.full.set()
        await self.full.wait()
        # Others get the chance to exceed the limit.
        await anyio.lowlevel.checkpoint()
        self.running -= 1
        self.done += 1
        if self.done == self.total:
            self.finished.set()


@pytest.mark.parametrize("limit", [1, 4])
async def test_handlers_overlap_exactly_to_the_limit(
    client: ensync.EnSyncClient, target: Target, event_name: str, limit: int
) -> None:
    await publish_all(client, event_name, range(20))
    overlap = Overlap(limit, 20)
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: subscription.for_each(overlap.handle, concurrency=limit))
            await overlap.finished.wait()
            await subscription.unsubscribe()
    assert overlap.most == limit
    assert await unsettled(target, event_name) == []


async def test_it_ends_with_the_subscription(client: ensync.EnSyncClient, event_name: str) -> None:
    await publish_all(client, event_name, range(3))
    seen: list[int] = []

    async def handler(event: Event) -> None:
        seen.append(event.payload)
        if event.payload == 2:
            await subscription.unsubscribe()

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            await subscription.for_each(handler)
    assert seen == [0, 1, 2]


async def test_an_event_is_acknowledged_when_its_handler_returns(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, [1, 2])
    second, release = anyio.Event(), anyio.Event()
    acknowledged_by_then: list[int] = []

    async def handler(event: Event) -> None:
        if event.payload == 2:
            await faults.wait_calls("acknowledge", 1)
            acknowledged_by_then.append(faults.calls("acknowledge"))
            second.set()
            await release.wait()

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription, anyio.create_task_group() as tasks:
            tasks.start_soon(subscription.for_each, handler)
            await second.wait()
            release.set()
            await faults.wait_calls("acknowledge", 2)
            tasks.cancel_scope.cancel()
    assert acknowledged_by_then == [1]


async def test_a_failed_handler_defers_its_event_and_the_others_go_on(
    client: ensync.EnSyncClient,
    engine: LocalEngine,
    event_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await publish_all(client, event_name, range(3))
    seen: list[tuple[int, bool]] = []

    async def handler(event: Event) -> None:
        seen.append((event.payload, event.redelivered))
        if event.payload == 1 and not event.redelivered:
            raise LookupError("it went wrong")
        if len(seen) == 4:
            await subscription.unsubscribe()

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            await subscription.for_each(handler, delay=0)
    assert sorted(seen) == [(0, False), (1, False), (1, True), (2, False)]
    assert engine.statistics().deferred == 1
    assert subscription.statistics().failed_handlers == 1
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].exc_info is not None
    assert isinstance(errors[0].exc_info[1], LookupError)


async def test_a_failed_handler_discards_its_event_when_told_so(
    client: ensync.EnSyncClient, engine: LocalEngine, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(3))

    async def handler(event: Event) -> None:
        if event.payload == 1:
            raise LookupError
        if event.payload == 2:
            await subscription.unsubscribe()

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            await subscription.for_each(handler, on_error="discard")
    assert engine.statistics().discarded == 1
    assert 1 not in await unsettled(target, event_name)


async def test_a_handler_that_settled_its_event_itself_is_left_alone(
    client: ensync.EnSyncClient, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, ["acked", "discarded and failed", "end"])

    async def handler(event: ensync.Event[str]) -> None:
        if event.payload == "acked":
            await event.ack()
        elif event.payload == "discarded and failed":
            await event.discard()
            raise LookupError
        else:
            await subscription.unsubscribe()

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            await subscription.for_each(handler)
    statistics = engine.statistics()
    assert (statistics.discarded, statistics.deferred) == (1, 0)
    # By hand, and the last one by its handler's return.
    assert (statistics.acknowledged, faults.calls("acknowledge")) == (2, 2)


async def test_two_runs_share_the_events(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, range(10))
    seen: list[int] = []

    async def handler(event: Event) -> None:
        seen.append(event.payload)
        if len(seen) == 10:
            done.set()

    done = anyio.Event()
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription, anyio.create_task_group() as tasks:
            tasks.start_soon(subscription.for_each, handler)
            tasks.start_soon(subscription.for_each, handler)
            await done.wait()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert sorted(seen) == list(range(10))
    assert await unsettled(target, event_name) == []


async def test_a_handler_that_is_not_async_is_refused_and_its_event_is_kept(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    def plain(_event: Event) -> None:
        """What is easily written by mistake."""

    not_async: Any = plain
    await client.publish(event_name, [client.app_id], 1)
    async with client.subscribe(event_name) as subscription:
        with pytest.raises(ensync.EnSyncValidationError, match="async function"):
            await subscription.for_each(7)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(ensync.EnSyncValidationError, match="async function"):
            await subscription.for_each(not_async)
        assert (await take_one(subscription)).payload == 1
