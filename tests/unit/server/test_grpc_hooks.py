from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from ensync.proto.ensync import HeartbeatRequest, HeartbeatResponse
from ensync.server.hooks import DoorCall, DoorFault, DoorHooks
from ensync.server.refusal import Reason, Refusal
from ensync.server.store import StoredEvent
from tests.unit.server.grpc_client import (
    Conversation,
    RawClient,
    conversation,
    receive,
    status_at_the_end,
    until,
)

pytestmark = pytest.mark.anyio


class Hooks(DoorHooks):
    """Calls whatever a test puts here; notes what it was called with."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.on_request: Callable[[DoorCall], Awaitable[None]] | None = None
        self.on_reply: Callable[[DoorCall], Awaitable[None]] | None = None
        self.copies = 1
        self.on_delivery: Callable[[DoorCall], Awaitable[None]] | None = None
        self.stream_ends: anyio.Event | None = None

    async def before_handling(self, call: DoorCall) -> None:
        self.seen.append(f"{call.door} {call.method} {call.event_name}".strip())
        if self.on_request is not None:
            await self.on_request(call)

    async def before_reply(self, call: DoorCall) -> None:
        if self.on_reply is not None:
            await self.on_reply(call)

    async def before_delivery(self, call: DoorCall, stored: StoredEvent) -> int:
        if self.on_delivery is not None:
            await self.on_delivery(call)
        return self.copies

    async def during_stream(self, call: DoorCall) -> None:
        self.stream_ends = anyio.Event()
        await self.stream_ends.wait()
        raise DoorFault("on purpose", status="INTERNAL")


def with_hooks(scenario: Callable[[Conversation, Hooks], Awaitable[None]]) -> Callable[[], object]:
    async def test() -> None:
        hooks = Hooks()

        async def talk_with_hooks(talk: Conversation) -> None:
            await scenario(talk, hooks)

        await conversation(hooks=hooks)(talk_with_hooks)()

    return test


async def raise_fault(_: DoorCall) -> None:
    raise DoorFault("on purpose", status="RESOURCE_EXHAUSTED")


async def raise_reset(_: DoorCall) -> None:
    raise DoorFault("on purpose", reset=True)


async def raise_refusal(_: DoorCall) -> None:
    raise Refusal(Reason.LIMIT, "not today")


async def heartbeat(client: RawClient) -> HeartbeatResponse:
    request = HeartbeatRequest(client_id=client.client_id)
    return await client.call("Heartbeat", request, HeartbeatResponse)


@with_hooks
async def test_hooks_see_every_request(talk: Conversation, hooks: Hooks) -> None:
    client = await talk.client()
    async with client.subscribed("one"):
        await client.publish(name="two")
    assert hooks.seen == ["grpc connect", "grpc subscribe one", "grpc publish two"]


@with_hooks
async def test_a_fault_before_handling_prevents(talk: Conversation, hooks: Hooks) -> None:
    client = await talk.client()
    hooks.on_request = raise_fault
    with pytest.raises(GRPCError, match="on purpose") as caught:
        await client.publish()
    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert talk.engine.statistics().published == 0


@with_hooks
async def test_a_fault_before_the_reply_comes_too_late(talk: Conversation, hooks: Hooks) -> None:
    client = await talk.client()
    hooks.on_reply = raise_reset
    with pytest.raises(StreamTerminatedError):
        await client.publish()
    assert talk.engine.statistics().published == 1


@with_hooks
async def test_a_hook_may_refuse(talk: Conversation, hooks: Hooks) -> None:
    client = await talk.client()
    hooks.on_request = raise_refusal
    refused = await client.publish()
    assert (refused.success, refused.error_message) == (False, "not today")


@with_hooks
async def test_a_silent_fault_never_answers(talk: Conversation, hooks: Hooks) -> None:
    client = await talk.client()

    async def keep_silent(call: DoorCall) -> None:
        if call.method == "publish":
            raise DoorFault("", silent=True)

    hooks.on_request = keep_silent
    with anyio.move_on_after(0.05) as waited:
        await client.publish()
    assert waited.cancelled_caught
    assert (await heartbeat(client)).success


@with_hooks
async def test_deliveries_can_be_lost_and_doubled(talk: Conversation, hooks: Hooks) -> None:
    client = await talk.client()
    async with client.subscribed() as stream:
        hooks.copies = 0
        await client.publish()
        await until(lambda: talk.engine.statistics().in_hand == 1)
        hooks.copies = 2
        published = await client.publish()
        assert {(await receive(stream)).event_idem for _ in range(2)} == {published.event_idem}


@with_hooks
async def test_a_stream_can_be_ended(talk: Conversation, hooks: Hooks) -> None:
    client = await talk.client()
    async with client.subscribed() as stream:
        assert hooks.stream_ends is not None
        hooks.stream_ends.set()
        assert await status_at_the_end(stream) is Status.INTERNAL
    await until(lambda: talk.engine.statistics().subscriptions == 0)


async def test_two_faults_at_once_end_a_stream_as_one_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks = Hooks()

    async def end_twice(_: DoorCall) -> None:
        assert hooks.stream_ends is not None
        hooks.stream_ends.set()
        raise DoorFault("on purpose", status="INTERNAL")

    async def scenario(talk: Conversation) -> None:
        client = await talk.client()
        hooks.on_delivery = end_twice
        async with client.subscribed() as stream:
            await client.publish()
            assert await status_at_the_end(stream) is Status.INTERNAL

    await conversation(hooks=hooks)(scenario)()
    assert "internal error" not in caplog.text


@with_hooks
async def test_a_connection_can_be_cut(talk: Conversation, hooks: Hooks) -> None:
    client = await talk.client()

    async def cut(call: DoorCall) -> None:
        call.connection.abort()

    hooks.on_request = cut
    with pytest.raises(StreamTerminatedError):
        await client.publish()
    await until(lambda: talk.engine.statistics().clients == 0)


@with_hooks
async def test_after_going_away_calls_under_way_are_finished(
    talk: Conversation, hooks: Hooks
) -> None:
    client = await talk.client()

    async def go_away(call: DoorCall) -> None:
        call.connection.go_away()
        call.connection.go_away()

    hooks.on_reply = go_away
    # This client gives everything up at a GOAWAY, but the engine has done it.
    with pytest.raises(StreamTerminatedError):
        await client.publish()
    assert talk.engine.statistics().published == 1


@with_hooks
async def test_going_away_with_an_error_ends_the_connection(
    talk: Conversation, hooks: Hooks
) -> None:
    client = await talk.client()

    async def go_away(call: DoorCall) -> None:
        call.connection.go_away(error=True)

    hooks.on_request = go_away
    with pytest.raises(StreamTerminatedError):
        await client.publish()
    await until(lambda: talk.engine.statistics().clients == 0)


@with_hooks
async def test_a_frozen_connection_is_a_black_hole(talk: Conversation, hooks: Hooks) -> None:
    client, other = await talk.client(), await talk.client()

    async def freeze(call: DoorCall) -> None:
        call.connection.freeze()

    hooks.on_request = freeze
    with anyio.move_on_after(0.05) as waited:
        await client.publish()
    assert waited.cancelled_caught
    hooks.on_request = None
    assert (await heartbeat(other)).success
