"""unsubscribe(): every loop finishes, and the engine sends elsewhere, whatever goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import ensync
from ensync.acknowledgements import MAX_UNCONFIRMED
from ensync.testing import Faults
from ensync.transports.base import Outcome, Request, Unsubscribe
from tests.conformance.harness import (
    PATIENCE,
    impatient,
    opened,
    publish_all,
    take_one,
)
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio


async def ends(subscription: ensync.Subscription[Any]) -> None:
    """A loop is given an event, or it finishes: anything but silence."""
    with anyio.fail_after(PATIENCE):
        async for _ in subscription:
            return


@pytest.mark.parametrize("why", ["cancelled before", "cancelled after", "no answer"])
async def test_without_an_answer_where_names_share_a_stream(why: str) -> None:
    faults = Faults()
    async with (
        opened("grpc", hooks=faults, multiplex=True) as (target, _),
        target.connect() as client,
        client.subscribe("other") as other,
        client.subscribe("orders") as subscription,
        anyio.create_task_group() as tasks,
    ):
        for each in (other, subscription):
            await publish_all(client, each.event_name, [0])
            await take_one(each)
        if why == "no answer":
            faults.drop_reply("unsubscribe")
            with pytest.raises(ensync.EnSyncTimeoutError), impatient(client):
                await subscription.unsubscribe()
        else:
            rule = faults.hold("unsubscribe", after_commit=why == "cancelled after")
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    await rule.wait()
                    scope.cancel()

                tasks.start_soon(cancel)
                await subscription.unsubscribe()
            rule.cancel()
        await publish_all(client, "orders", [1])
        await ends(subscription)


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"loop_factory": asyncio.SelectorEventLoop})],
    indirect=True,
    ids=["asyncio"],
)
async def test_cancelled_by_asyncio_itself_as_the_answer_arrives(
    client: ensync.EnSyncClient, event_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        client.subscribe(f"{event_name}/other"),
        client.subscribe(event_name) as subscription,
    ):
        task = asyncio.create_task(subscription.unsubscribe())
        connection = client._session.current
        assert connection is not None
        answered = connection.answered

        def answered_and_cancelled(request: Request, outcome: Outcome) -> None:
            answered(request, outcome)
            if isinstance(request, Unsubscribe):
                task.cancel()

        monkeypatch.setattr(connection, "answered", answered_and_cancelled)
        with pytest.raises(asyncio.CancelledError):
            await task
        await publish_all(client, event_name, [1])
        await ends(subscription)


@pytest.mark.parametrize("transport", ["grpc"])
async def test_a_loop_that_waits_for_acknowledgements_finishes(transport: str) -> None:
    faults = Faults()
    unanswered = faults.drop_request("acknowledge", count=None)
    ended = anyio.Event()

    async def loop() -> None:
        async for _ in subscription:
            pass
        ended.set()

    async with (
        opened(transport, hooks=faults, max_in_flight=3000) as (target, _),
        target.connect(drain_timeout=0.1) as client,
    ):
        events = [ensync.OutgoingEvent("orders", [client.app_id], 1)] * (MAX_UNCONFIRMED + 100)
        async with client.publish_many(events) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()
        async with anyio.create_task_group() as tasks, client.subscribe("orders") as subscription:
            tasks.start_soon(loop)
            await until(lambda: subscription.statistics().unconfirmed == MAX_UNCONFIRMED)
            await subscription.unsubscribe()
            with anyio.fail_after(PATIENCE):
                await ended.wait()
        unanswered.cancel()


async def test_while_it_is_registered_again_and_the_engine_does_not_know_of_it() -> None:
    faults = Faults()
    async with (
        opened("grpc", hooks=faults) as (target, engine),
        target.connect() as client,
        client.subscribe("orders") as subscription,
    ):
        await faults.wait_streams(1)
        held = faults.hold("subscribe")
        faults.end_streams()
        await until(lambda: not subscription._intake.is_attached)
        await until(lambda: engine.statistics().subscriptions == 0)
        result = await subscription.unsubscribe()
        assert (result.status, result.action) == ("success", "unsubscribed")
        await ends(subscription)
        held.cancel()


@pytest.mark.parametrize("how", ["unsubscribe", "leave"])
async def test_in_the_moment_in_which_it_is_registered_again(how: str) -> None:
    async with opened("grpc", multiplex=True, end_registering_streams=True) as (target, engine):
        with anyio.fail_after(PATIENCE):
            async with target.connect() as client, client.subscribe("other"):
                async with client.subscribe("orders") as subscription:
                    while subscription._intake.is_attached:  # its stream has ended at once
                        await anyio.lowlevel.checkpoint()
                    if how == "unsubscribe":
                        await subscription.unsubscribe()
                await until(lambda: engine.statistics().subscriptions == 1)
                await client.publish("orders", [client.app_id], 1)
                async with target.connect() as another, another.subscribe("orders") as elsewhere:
                    assert (await take_one(elsewhere)).payload == 1
