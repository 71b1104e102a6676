from __future__ import annotations

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ensync.proto.ensync import UnsubscribeRequest, UnsubscribeResponse
from ensync.server.hooks import DoorCall, DoorFault, DoorHooks
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


async def unsubscribe(client: RawClient, name: str) -> None:
    request = UnsubscribeRequest(client_id=client.client_id, event_name=name)
    assert (await client.call("Unsubscribe", request, UnsubscribeResponse)).success


@conversation(multiplex=True)
async def test_all_events_come_on_the_first_stream(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one") as first, client.subscribed("two") as second:
        for name in ("two", "one", "two"):
            published = await client.publish(name=name)
            event = await receive(first)
            assert (event.event_name, event.event_idem) == (name, published.event_idem)
        with anyio.move_on_after(0.02):
            assert await second.recv_message() is None
            pytest.fail("the second stream ended")


@conversation(multiplex=True, end_registering_streams=True)
async def test_later_streams_may_end_at_once(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one") as first:
        async with client.subscribed("two") as second:
            assert await status_at_the_end(second) is Status.OK
        await client.publish(name="two")
        assert (await receive(first)).event_name == "two"


@conversation(multiplex=True)
async def test_each_client_has_its_own_first_stream(talk: Conversation) -> None:
    one, two = await talk.client(), await talk.client()
    async with one.subscribed("one") as first, two.subscribed("two") as second:
        await one.publish(name="two")
        assert (await receive(second)).event_name == "two"
        await one.publish(name="one")
        assert (await receive(first)).event_name == "one"


@conversation(multiplex=True)
async def test_registering_a_name_again_delivers_once(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one") as first:
        await client.publish("a", name="one")
        await receive(first)
        async with client.subscribed("one"):
            await client.publish("b", name="one")
            await receive(first)
            await client.publish("c", name="one")
            await receive(first)
        await client.publish("d", name="one")
        await receive(first)
        assert talk.engine.statistics().delivered == 4


@conversation(multiplex=True)
async def test_closing_a_later_stream_ends_its_name_only(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one") as first:
        async with client.subscribed("two"):
            assert talk.engine.statistics().subscriptions == 2
        await until(lambda: talk.engine.statistics().subscriptions == 1)
        await client.publish(name="one")
        assert (await receive(first)).event_name == "one"


@conversation(multiplex=True)
async def test_unsubscribing_keeps_the_first_stream_for_the_others(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one") as first, client.subscribed("two") as second:
        await unsubscribe(client, "one")
        await client.publish(name="two")
        assert (await receive(first)).event_name == "two"
        await unsubscribe(client, "two")
        assert await status_at_the_end(second) is Status.OK
        assert await status_at_the_end(first) is Status.OK


@conversation(multiplex=True)
async def test_the_end_of_the_first_stream_ends_the_others(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one") as first, client.subscribed("two") as second:
        await client.publish(name="two")
        event = await receive(first)
        await first.cancel()
        assert await status_at_the_end(second) is Status.UNAVAILABLE
        await until(lambda: talk.engine.statistics().subscriptions == 0)
        async with client.subscribed("two") as again:
            assert (await receive(again)).event_idem == event.event_idem


@conversation(multiplex=True)
async def test_a_refused_subscription_is_refused_bare(talk: Conversation) -> None:
    narrow = talk.engine.create_app("narrow", receive=["two"])
    client = await talk.client(narrow)
    with pytest.raises(GRPCError) as caught:
        async with client.subscribed("one"):
            pass
    assert caught.value.status is Status.PERMISSION_DENIED
    async with client.subscribed("two") as first:
        with pytest.raises(GRPCError) as caught:
            async with client.subscribed("one"):
                pass
        assert caught.value.status is Status.PERMISSION_DENIED
        await client.publish(name="two")
        await receive(first)


class EndAtEvent(DoorHooks):
    async def before_delivery(self, call: DoorCall, stored: StoredEvent) -> int:
        raise DoorFault("on purpose", status="ABORTED")


@conversation(multiplex=True, hooks=EndAtEvent())
async def test_a_fault_ends_the_first_stream(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one") as first, client.subscribed("two") as second:
        await client.publish(name="two")
        assert await status_at_the_end(first) is Status.ABORTED
        assert await status_at_the_end(second) is Status.UNAVAILABLE


@conversation(multiplex=True)
async def test_large_events_of_two_names_are_not_mixed(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one") as first, client.subscribed("two"):
        for number in range(10):
            for name in ("one", "two"):
                await client.publish(f"{number}" * 300_000, name=name)
        got = [await receive(first) for _ in range(20)]
    for name in ("one", "two"):
        payloads = [event.payload for event in got if event.event_name == name]
        assert len(payloads) == len(set(payloads)) == 10
