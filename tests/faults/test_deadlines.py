"""Every request has a deadline, also one that waits behind others to be sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import get_args

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import FaultProxy, Faults, Method
from tests.conformance.harness import (
    PATIENCE,
    Target,
    opened,
    publish_all,
    reconnected,
    take,
)
from tests.faults.waiters import Waiters, state_reached
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio

TIMEOUT = 1.5  # seconds, in which all that goes well has to be done as well
# What a busy machine may add.
SLACK = 5.0

SOON = ensync.Reconnect(initial=0.005, maximum=0.02, max_attempts=None)

Calls = Mapping[str, Callable[[], Awaitable[object]]]


@asynccontextmanager
async def every_call(
    target: Target, name: str, request_timeout: float = TIMEOUT
) -> AsyncIterator[tuple[ensync.EnSyncClient, Calls]]:
    """A client, and every call of it that asks the engine for something, to be made once."""
    async with (
        target.connect(
            request_timeout=request_timeout, drain_timeout=0.1, reconnect=SOON
        ) as client,
        client.subscribe(name, auto_ack=False) as subscription,
        client.subscribe(f"{name}/resumed") as resumed,
        client.subscribe(f"{name}/unsubscribed") as unsubscribed,
    ):
        await publish_all(client, name, range(3))
        acked, deferred, discarded = await take(subscription, 3)

        async def subscribe() -> None:
            async with client.subscribe(f"{name}/new"):
                return

        yield (
            client,
            {
                "publish": lambda: client.publish(name, [client.app_id], 1),
                "subscribe": subscribe,
                "ack": acked.ack,
                "defer": lambda: deferred.defer(delay=0),
                "discard": discarded.discard,
                "replay": lambda: subscription.replay(acked.idem),
                "pause": subscription.pause,
                "resume": resumed.resume,
                "unsubscribe": unsubscribed.unsubscribe,
            },
        )


@asynccontextmanager
async def made_at_once(calls: Calls) -> AsyncIterator[Waiters]:
    """Makes all calls; left when each of them has ended."""
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(tasks)
        for name, call in calls.items():
            waiters.start(name, call)
        yield waiters


def assert_timed_out(waiters: Waiters, calls: Calls, began: float, *, sent: bool) -> None:
    seconds = max(waiters.ended_at.values()) - began
    print(f"{len(calls)} calls with {TIMEOUT} s each took {seconds:.3f} s at the most")
    # A registration ends with its link, so that much may have been done.
    assert waiters.errors.keys() | {"unsubscribe"} == calls.keys()
    published = waiters.errors.pop("publish")
    assert isinstance(published, ensync.EnSyncPublishError)
    assert bool(published.unknown) == sent
    assert bool(published.rejected) != sent
    for name, error in waiters.errors.items():
        assert isinstance(error, ensync.EnSyncTimeoutError), name
    assert seconds < TIMEOUT + SLACK


def answer_nothing(faults: Faults) -> None:
    for method in get_args(Method):
        if method not in ("connect", "delivery"):
            faults.drop_request(method, count=None)


async def test_an_engine_that_never_answers(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with every_call(target, event_name) as (_, calls):
            answer_nothing(faults)
            began = anyio.current_time()
            async with made_at_once(calls) as waiters:
                pass
            assert_timed_out(waiters, calls, began, sent=True)


async def test_an_engine_that_never_answers_and_a_link_that_is_lost_meanwhile(
    proxied: Target, proxy: FaultProxy, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with every_call(proxied, event_name) as (_, calls):
            answer_nothing(faults)
            before = faults.calls("publish")
            began = anyio.current_time()
            async with made_at_once(calls) as waiters:
                await faults.wait_calls("publish", before + 1)
                proxy.refuse()
                proxy.reset()
            assert_timed_out(waiters, calls, began, sent=True)


async def test_what_follows_a_request_without_an_answer(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with every_call(target, event_name, PATIENCE) as (client, calls):
            faults.drop_request("publish")
            with pytest.raises(ensync.EnSyncPublishError):
                await client.publish(event_name, [client.app_id], 1, timeout=0.1)
            for call in calls.values():
                await call()


# An engine that serves one stream at a time


@asynccontextmanager
async def occupied(client: ensync.EnSyncClient, faults: Faults, name: str) -> AsyncIterator[None]:
    """Has the one stream of the client's connection taken, until the block is left."""
    held_name = f"{name}/held"
    rule = faults.hold("publish", event_name=held_name)
    async with anyio.create_task_group() as tasks:
        publish = partial(client.publish, held_name, [client.app_id], 1, timeout=PATIENCE)
        Waiters(tasks).start("held", publish)
        await rule.wait()
        yield
        rule.cancel()


single_stream = partial(opened, "grpc", max_concurrent_streams=1)


async def test_calls_that_wait_for_their_turn(faults: Faults, event_name: str) -> None:
    with anyio.fail_after(PATIENCE):
        async with (
            single_stream(hooks=faults) as (target, _),
            every_call(target, event_name) as (client, calls),
            occupied(client, faults, event_name),
        ):
            # Each subscription has a connection of its own here: its turn comes at once.
            faults.drop_request("subscribe", count=None)
            before = faults.calls("publish")
            began = anyio.current_time()
            async with made_at_once(calls) as waiters:
                pass
            assert faults.calls("publish") == before
            assert_timed_out(waiters, calls, began, sent=False)


async def test_calls_that_wait_for_their_turn_on_a_link_that_is_lost(
    faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with (
            single_stream(hooks=faults) as (target, _),
            every_call(target, event_name, PATIENCE) as (client, calls),
            occupied(client, faults, event_name),
            made_at_once(calls) as waiters,
        ):
            await anyio.wait_all_tasks_blocked()
            assert waiters.waiting >= calls.keys() - {"subscribe"}
            faults.abort_connections()
            # None of them had been sent: each has its turn on the next link.
            await waiters.ended(calls.keys())
            assert not waiters.errors


async def test_a_heartbeat_that_waits_for_its_turn(faults: Faults, event_name: str) -> None:
    heartbeat = 0.2
    with anyio.fail_after(PATIENCE):
        async with (
            single_stream(hooks=faults) as (target, _),
            target.connect(heartbeat_interval=heartbeat, reconnect=SOON) as client,
            occupied(client, faults, event_name),
        ):
            began = anyio.current_time()
            at = await state_reached(client, ensync.ClientState.RECONNECTING)
            assert at - began < 2 * heartbeat + SLACK
            await state_reached(client, ensync.ClientState.CONNECTED)


# And what nobody waits for


@pytest.mark.parametrize("transport", ["websocket"])
async def test_a_pause_because_of_a_full_buffer(
    target: Target, faults: Faults, event_name: str
) -> None:
    """Where replies come in order, one that is lost must not hold up all others for ever."""
    async with (
        target.connect(request_timeout=TIMEOUT, heartbeat_interval=0.1, reconnect=SOON) as client,
        client.subscribe(event_name, buffer_size=1),
    ):
        client_id = client.client_id
        unanswered = faults.drop_reply("pause")
        await publish_all(client, event_name, [0])
        with anyio.fail_after(PATIENCE):
            await unanswered.wait()
        await reconnected(client, client_id)
        await client.publish(event_name, [client.app_id], 1)


async def test_a_discard_of_a_failed_handler_s_event(
    target: Target, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    """The first is waited for; when that was in vain it is asked for again, and again."""
    unanswered = faults.drop_request("discard", count=2)

    async def fail(_event: ensync.Event[int]) -> None:
        raise LookupError

    with anyio.fail_after(PATIENCE):
        async with (
            target.connect(request_timeout=TIMEOUT, reconnect=SOON) as client,
            client.subscribe(event_name) as subscription,
            anyio.create_task_group() as tasks,
        ):
            await publish_all(client, event_name, [0])
            tasks.start_soon(lambda: subscription.for_each(fail, on_error="discard"))
            await until(lambda: engine.statistics().discarded == 1)
            tasks.cancel_scope.cancel()
    assert unanswered.happened == 2
    assert faults.calls("discard") >= 3
    assert subscription.statistics().failed_handlers == 1
