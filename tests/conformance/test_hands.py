"""Whose an event is: settled by the one that holds it, and by nobody who gave it back."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from ensync.testing.rules import FaultRule
from tests.conformance.harness import PATIENCE, Target, impatient, publish_all, take_one, unsettled

pytestmark = pytest.mark.anyio

Event = ensync.Event[int]


async def test_a_loop_does_not_acknowledge_what_it_gave_back_and_another_holds(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0])
    with anyio.fail_after(PATIENCE), pytest.raises(LookupError):
        async with client.subscribe(event_name) as subscription:
            one, other = aiter(subscription), aiter(subscription)
            event = await anext(one)
            await event.defer(delay=0)
            assert (await anext(other)).idem == event.idem
            await publish_all(client, event_name, [1])
            await anext(one)
            raise LookupError
    assert sorted(await unsettled(target, event_name)) == [0, 1]


async def test_a_scope_does_not_acknowledge_what_was_given_back_in_it_and_another_holds(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await publish_all(client, event_name, [0])
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name, auto_ack=False) as subscription:
            event = await take_one(subscription)
            async with event.settle():
                await event.defer(delay=0)
                assert (await take_one(subscription)).redelivered
    assert await unsettled(target, event_name) == [0]


async def test_a_handler_does_not_acknowledge_what_it_gave_back_and_another_holds(
    client: ensync.EnSyncClient, event_name: str
) -> None:
    await publish_all(client, event_name, [0])
    others_turn = anyio.Event()
    first_is_over = anyio.Event()
    runs = 0

    async def handler(event: Event) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await event.defer(delay=0)
            await others_turn.wait()
            first_is_over.set()
        elif runs == 2:
            others_turn.set()
            await first_is_over.wait()
            await anyio.wait_all_tasks_blocked()
            raise LookupError
        else:
            await subscription.unsubscribe()

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            await subscription.for_each(handler, concurrency=2, delay=0)
    assert runs == 3, "the one that failed has come again"


async def test_what_the_engine_did_not_acknowledge_comes_again(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    faults.refuse_next("acknowledge")
    await publish_all(client, event_name, [0, 1])
    seen: list[tuple[int, bool]] = []
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            async for event in subscription:
                seen.append((event.payload, event.redelivered))
                if event.redelivered:
                    break
    assert seen == [(0, False), (1, False), (0, True)]


async def test_what_the_engine_never_acknowledges_does_not_come_on_and_on(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    faults.refuse_next("acknowledge", count=None)
    await publish_all(client, event_name, [0])
    seen = 0
    async with client.subscribe(event_name) as subscription:
        with anyio.fail_after(PATIENCE):
            async for _ in subscription:
                seen += 1
                if seen == 2:
                    break
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_one, subscription)
            await faults.wait_calls("acknowledge", 1)
            await anyio.wait_all_tasks_blocked()
            assert subscription.statistics().buffered == 0
            tasks.cancel_scope.cancel()
    assert seen == 2


@pytest.mark.parametrize("way", ["handler", "scope"])
async def test_cancelled_while_a_failure_is_settled_the_event_goes_to_another(
    client: ensync.EnSyncClient, faults: Faults, event_name: str, way: str
) -> None:
    await publish_all(client, event_name, [0])
    unanswered = faults.drop_request("defer")

    async def fail(_event: Event) -> None:
        raise LookupError

    async def work() -> None:
        if way == "handler":
            await subscription.for_each(fail)
        event = await take_one(subscription)
        async with event.settle():
            await fail(event)

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name, auto_ack=False) as subscription:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                await unanswered.wait()
                tasks.cancel_scope.cancel()
            assert (await take_one(subscription)).redelivered


async def test_what_is_settled_is_not_said_to_be_settled_otherwise(
    client: ensync.EnSyncClient, engine: LocalEngine, event_name: str
) -> None:
    await publish_all(client, event_name, [0, 1])
    async with client.subscribe(event_name, auto_ack=False) as subscription:
        acknowledged = await take_one(subscription)
        discarded = await take_one(subscription)
        await acknowledged.ack()
        await discarded.discard()
        for event in (acknowledged, discarded):
            with pytest.raises(ensync.EnSyncSubscriptionError, match="already"):
                await event.defer(delay=5)
        with pytest.raises(ensync.EnSyncSubscriptionError, match="already"):
            await acknowledged.discard()
        with pytest.raises(ensync.EnSyncSubscriptionError, match="already discarded"):
            await discarded.ack()
        await acknowledged.ack()  # as it is
        statistics = subscription.statistics()
    assert (statistics.acknowledged, statistics.deferred, statistics.discarded) == (1, 0, 1)
    assert engine.statistics().deferred == 0


@pytest.mark.parametrize("verb", ["defer", "discard"])
async def test_settling_whose_answer_was_lost_is_done(
    target: Target, faults: Faults, event_name: str, verb: str
) -> None:
    async with target.connect(reconnect=ensync.Reconnect(initial=1e-6, maximum=1e-6)) as client:
        await publish_all(client, event_name, [0])
        async with client.subscribe(event_name, auto_ack=False) as subscription:
            event = await take_one(subscription)
            if verb == "defer":
                faults.abort_next("defer", after_commit=True)
                await event.defer(delay=3600)
            else:
                faults.abort_next("discard", after_commit=True)
                await event.discard()
            statistics = subscription.statistics()
    assert (statistics.deferred, statistics.discarded) == ((1, 0) if verb == "defer" else (0, 1))


@pytest.mark.parametrize("on_error", ["defer", "discard"])
async def test_what_was_settled_elsewhere_is_not_shown_for_a_failed_handler_s_sake(
    client: ensync.EnSyncClient,
    target: Target,
    event_name: str,
    on_error: Literal["defer", "discard"],
) -> None:
    await publish_all(client, event_name, [0, 1])
    seen: list[int] = []

    async def handler(event: Event) -> None:
        seen.append(event.payload)
        if event.payload == 1:
            await subscription.unsubscribe()
            return
        async with target.connect() as other, other.subscribe(event_name) as elsewhere:
            await elsewhere.ack(event.idem, event.block)
        raise LookupError

    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name) as subscription:
            await subscription.for_each(handler, on_error=on_error, delay=0)
    assert seen == [0, 1]
    assert await unsettled(target, event_name) == []


async def test_a_discard_whose_answer_is_lost_is_not_shown_again(
    target: Target, faults: Faults, engine: LocalEngine, event_name: str
) -> None:
    quick = ensync.Reconnect(initial=1e-6, maximum=1e-6)
    seen: list[int] = []
    async with target.connect(reconnect=quick) as client:
        await publish_all(client, event_name, [0, 1])
        unanswered = faults.drop_reply("discard")

        async def handler(event: Event) -> None:
            seen.append(event.payload)
            if event.payload == 1:
                await subscription.unsubscribe()
            raise LookupError

        with anyio.fail_after(PATIENCE):
            async with (
                client.subscribe(event_name) as subscription,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(impatient_until, client, unanswered)
                await subscription.for_each(handler, on_error="discard")
    assert seen == [0, 1]
    assert engine.statistics().discarded >= 1


async def impatient_until(client: ensync.EnSyncClient, happened: FaultRule) -> None:
    with impatient(client, 0.3):
        await happened.wait()


@pytest.mark.parametrize("how", ["acknowledge", "discard"])
async def test_what_a_handler_settled_without_an_answer_is_not_shown_again_when_it_fails(
    target: Target, faults: Faults, event_name: str, how: Literal["acknowledge", "discard"]
) -> None:
    quick = ensync.Reconnect(initial=1e-6, maximum=1e-6)
    seen: list[int] = []
    async with target.connect(reconnect=quick) as client:
        await publish_all(client, event_name, [0, 1])
        faults.drop_reply(how)

        async def handler(event: Event) -> None:
            seen.append(event.payload)
            if event.payload == 0:
                # Who does not know what came of it fails. The engine knows.
                with impatient(client, 0.3):
                    await (event.ack() if how == "acknowledge" else event.discard())
            elif event.payload == 1:
                await publish_all(client, event_name, [2])  # behind whatever was given back
            else:
                await subscription.unsubscribe()

        with anyio.fail_after(PATIENCE):
            async with client.subscribe(event_name) as subscription:
                await subscription.for_each(handler)
    assert seen == [0, 1, 2]
    assert await unsettled(target, event_name) == []


async def failing_at_first(
    client: ensync.EnSyncClient, event_name: str, answer_within: float = 30, **options: Any
) -> tuple[list[bool], ensync.SubscriptionStatistics]:
    """Whether what a handler is given came before; it fails when it did not."""
    seen: list[bool] = []

    async def handler(event: Event) -> None:
        seen.append(event.redelivered)
        if not event.redelivered:
            patience.enter_context(impatient(client, answer_within))
            raise LookupError
        patience.close()
        await subscription.unsubscribe()

    with anyio.fail_after(PATIENCE), ExitStack() as patience:
        async with client.subscribe(event_name) as subscription:
            await subscription.for_each(handler, **options)
    return seen, subscription.statistics()


async def test_without_an_answer_to_a_deferral_the_event_comes_again_at_once(
    target: Target, faults: Faults, event_name: str
) -> None:
    quick = ensync.Reconnect(initial=1e-6, maximum=1e-6)
    async with target.connect(reconnect=quick) as client:
        await publish_all(client, event_name, [0])
        faults.drop_request("defer", count=None)
        seen, _ = await failing_at_first(client, event_name, answer_within=0.3, delay=3600)
    assert seen == [False, True]
    assert await unsettled(target, event_name) == []


@pytest.mark.parametrize("on_error", ["discard", "defer"])
async def test_what_the_engine_refuses_to_settle_is_counted_and_shown_again(
    client: ensync.EnSyncClient,
    target: Target,
    faults: Faults,
    event_name: str,
    on_error: Literal["discard", "defer"],
) -> None:
    await publish_all(client, event_name, [0])
    faults.refuse_next(on_error)
    seen, statistics = await failing_at_first(client, event_name, on_error=on_error)
    assert seen == [False, True]
    assert statistics.refused == 1
    assert await unsettled(target, event_name) == []
