"""publish_many(): an outcome for each event, a bounded number under way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

import ensync
from ensync.testing import Faults
from tests.conformance.harness import PATIENCE, Target, unsettled

pytestmark = pytest.mark.anyio


def outgoing(
    client: ensync.EnSyncClient, event_name: str, count: int
) -> Iterator[ensync.OutgoingEvent]:
    for n in range(count):
        yield ensync.OutgoingEvent(event_name, [client.app_id], n, key=n)


async def test_an_outcome_for_each_event(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    async with client.publish_many(outgoing(client, event_name, 100)) as outcomes:
        done = [outcome async for outcome in outcomes]
    assert sorted(str(outcome.event.key) for outcome in done) == sorted(map(str, range(100)))
    assert len({outcome.unwrap().event_id for outcome in done}) == 100
    assert sorted(await unsettled(target, event_name)) == list(range(100))


async def test_an_async_iterable(client: ensync.EnSyncClient, event_name: str) -> None:
    async def slowly() -> AsyncIterator[ensync.OutgoingEvent]:
        for event in outgoing(client, event_name, 10):
            await anyio.lowlevel.checkpoint()
            yield event

    async with client.publish_many(slowly(), max_in_flight=3) as outcomes:
        assert len([outcome.unwrap() async for outcome in outcomes]) == 10


async def test_none_at_all(client: ensync.EnSyncClient) -> None:
    async with client.publish_many([]) as outcomes:
        assert [outcome async for outcome in outcomes] == []


async def test_no_more_than_the_limit_are_under_way(
    client: ensync.EnSyncClient,
    other_client: ensync.EnSyncClient,
    faults: Faults,
    event_name: str,
) -> None:
    asked_for = 0

    def counted() -> Iterator[ensync.OutgoingEvent]:
        nonlocal asked_for
        for event in outgoing(client, event_name, 20):
            asked_for += 1
            yield event

    held = faults.hold("publish", count=None)
    async with client.publish_many(counted(), max_in_flight=5) as outcomes:
        await faults.wait_calls("publish", 5)
        # Round trips of another client leave time for one too many.
        async with other_client.subscribe(event_name):
            pass
        assert faults.calls("publish") == asked_for == 5
        held.cancel()
        assert len([outcome.unwrap() async for outcome in outcomes]) == 20


async def test_what_nobody_asks_for_is_not_published(
    client: ensync.EnSyncClient,
    other_client: ensync.EnSyncClient,
    faults: Faults,
    event_name: str,
) -> None:
    async with client.publish_many(outgoing(client, event_name, 1_000), max_in_flight=4) as outs:
        async for _ in outs:
            break
        async with other_client.subscribe(event_name):
            pass
        # Those whose outcomes wait to be asked for, and those that wait for room there.
        assert faults.calls("publish") <= 10


async def test_a_bad_event_has_its_outcome_and_the_others_go_on(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    events = list(outgoing(client, event_name, 3))
    events[1] = ensync.OutgoingEvent(event_name, [client.app_id], float("nan"), key=1)
    async with client.publish_many(events) as outcomes:
        by_key = {outcome.event.key: outcome async for outcome in outcomes}
    assert by_key[0].receipt is not None
    assert by_key[2].receipt is not None
    assert isinstance(by_key[1].error, ensync.EnSyncValidationError)
    with pytest.raises(ensync.EnSyncValidationError):
        by_key[1].unwrap()


async def test_a_refused_event_has_its_outcome(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    faults.refuse_next("publish", "not today")
    async with client.publish_many(outgoing(client, event_name, 1)) as outcomes:
        done = [outcome async for outcome in outcomes]
    assert isinstance(done[0].error, ensync.EnSyncPublishError)
    assert "not today" in str(done[0].error)


async def test_an_error_of_the_iterable_comes_out_bare(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    def broken() -> Iterator[ensync.OutgoingEvent]:
        yield from outgoing(client, event_name, 3)
        raise LookupError("the source is gone")

    with pytest.raises(LookupError, match="the source is gone"):
        async with client.publish_many(broken()) as outcomes:
            async for _ in outcomes:
                pass
    assert (await client.publish(event_name, [client.app_id], 1)).event_id


async def test_an_error_of_the_block_comes_out_bare(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    with pytest.raises(LookupError):
        async with client.publish_many(outgoing(client, event_name, 100)) as outcomes:
            async for _ in outcomes:
                raise LookupError


async def test_leaving_early_cancels_and_closes_the_source(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    closed = False

    async def endless() -> AsyncIterator[ensync.OutgoingEvent]:
        nonlocal closed
        try:
            while True:
                yield next(outgoing(client, event_name, 1))
        finally:
            closed = True

    with anyio.fail_after(PATIENCE):
        async with client.publish_many(endless(), max_in_flight=8) as outcomes:
            async for outcome in outcomes:
                assert outcome.receipt is not None
                break
    assert closed
    assert (await client.publish(event_name, [client.app_id], 1)).event_id


async def test_leaving_early_while_the_source_waits(client: ensync.EnSyncClient) -> None:
    async def never() -> AsyncIterator[ensync.OutgoingEvent]:
        await anyio.sleep_forever()
        yield ensync.OutgoingEvent("", [], None)

    with anyio.fail_after(PATIENCE):
        async with client.publish_many(never()):
            pass


async def test_what_is_no_event_has_its_outcome_too(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    good = ensync.OutgoingEvent(event_name, [client.app_id], 1)
    no_recipient: Any = [["x"]]
    mixed: Any = [good, None, ensync.OutgoingEvent(event_name, no_recipient, 1), good]
    async with client.publish_many(mixed) as outcomes:
        found = [outcome async for outcome in outcomes]
    errors = [type(outcome.error) for outcome in found if outcome.error is not None]
    assert errors == [ensync.EnSyncValidationError] * 2
    assert len(found) == 4


async def test_the_limit_costs_nothing_by_itself(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    events = [ensync.OutgoingEvent(event_name, [client.app_id], n) for n in range(3)]
    async with client.publish_many(events, max_in_flight=10**30) as outcomes:
        assert len([outcome.unwrap() async for outcome in outcomes]) == 3


@pytest.mark.parametrize("together", [2, 8])
async def test_no_outcome_is_lost_when_asking_for_it_is_cancelled(
    client: ensync.EnSyncClient, event_name: str, together: int
) -> None:
    seen: list[object] = []
    events = outgoing(client, event_name, 20)
    with anyio.fail_after(PATIENCE):
        async with client.publish_many(events, max_in_flight=together) as outcomes:
            while len(seen) < 20:
                with anyio.CancelScope() as scope:
                    async for outcome in outcomes:
                        seen.append(outcome.event.key)
                        await anyio.wait_all_tasks_blocked()  # others are ready by now
                        scope.cancel()
    assert sorted(map(str, seen)) == sorted(map(str, range(20)))
