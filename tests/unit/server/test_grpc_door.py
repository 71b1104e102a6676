from __future__ import annotations

import json

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from ensync.proto.ensync import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    ConnectRequest,
    ConnectResponse,
    ContinueRequest,
    ContinueResponse,
    DeferRequest,
    DeferResponse,
    DiscardRequest,
    DiscardResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PauseRequest,
    PauseResponse,
    PublishEventRequest,
    PublishEventResponse,
    ReplayRequest,
    ReplayResponse,
    UnsubscribeRequest,
    UnsubscribeResponse,
)
from tests.unit.server.brokers import NAME, envelope
from tests.unit.server.grpc_client import (
    Conversation,
    RawClient,
    conversation,
    receive,
    status_at_the_end,
    until,
)

pytestmark = pytest.mark.anyio

GENERATIONS = {
    "event": {
        "publish": "PublishEvent",
        "ack": "AcknowledgeEvent",
        "defer": "DeferEvent",
        "discard": "DiscardEvent",
        "replay": "ReplayEvent",
        "pause": "PauseEvents",
        "continue": "ContinueEvents",
    },
    "message": {
        "publish": "PublishMessage",
        "ack": "AcknowledgeMessage",
        "defer": "DeferMessage",
        "discard": "DiscardMessage",
        "replay": "ReplayMessage",
        "pause": "PauseMessages",
        "continue": "ContinueMessages",
    },
}

both_generations = pytest.mark.parametrize("generation", ["event", "message"])


def publish_request(client: RawClient, text: str = "hello") -> PublishEventRequest:
    return PublishEventRequest(
        client_id=client.client_id,
        event_name=NAME,
        payload=envelope(text),
        delivery_to=client.app.app_id,
        metadata='{"source": "web"}',
        payload_metadata='{"byte_size": 5}',
    )


async def ack(client: RawClient, idem: str, block: int) -> AcknowledgeResponse:
    request = AcknowledgeRequest(
        client_id=client.client_id, event_idem=idem, event_name=NAME, partition_block=block
    )
    return await client.call("AcknowledgeMessage", request, AcknowledgeResponse)


# Both generations


@both_generations
@conversation()
async def test_an_event_travels(talk: Conversation, generation: str) -> None:
    names = GENERATIONS[generation]
    client = await talk.client()
    async with client.subscribed() as stream:
        published = await client.call(
            names["publish"], publish_request(client), PublishEventResponse
        )
        assert published.success
        event = await receive(stream)
        assert event.event_idem == published.event_idem
        assert event.event_name == NAME
        assert event.payload == envelope("hello")
        assert event.metadata == '{"source": "web"}'
        assert event.sender == talk.app.app_id
        request = AcknowledgeRequest(
            client_id=client.client_id,
            event_idem=event.event_idem,
            event_name=NAME,
            partition_block=event.partition_block,
        )
        assert (await client.call(names["ack"], request, AcknowledgeResponse)).success
        again = await client.call(names["ack"], request, AcknowledgeResponse)
        assert not again.success
        assert "already acknowledged" in again.message


@both_generations
@conversation()
async def test_defer_and_discard(talk: Conversation, generation: str) -> None:
    names = GENERATIONS[generation]
    client = await talk.client()
    async with client.subscribed() as stream:
        await client.publish()
        event = await receive(stream)
        deferred = await client.call(
            names["defer"],
            DeferRequest(client_id=client.client_id, event_idem=event.event_idem, event_name=NAME),
            DeferResponse,
        )
        assert deferred.success
        assert deferred.delivery_time > 0
        assert (await receive(stream)).event_idem == event.event_idem
        request = DiscardRequest(client_id=client.client_id, event_idem=event.event_idem)
        assert (await client.call(names["discard"], request, DiscardResponse)).success
        refused = await client.call(names["discard"], request, DiscardResponse)
        assert not refused.success
        assert "already discarded" in refused.message


@both_generations
@conversation()
async def test_replay(talk: Conversation, generation: str) -> None:
    client = await talk.client()
    published = await client.call(
        GENERATIONS[generation]["publish"], publish_request(client), PublishEventResponse
    )
    request = ReplayRequest(
        client_id=client.client_id, event_idem=published.event_idem, event_name=NAME
    )
    replayed = await client.call(GENERATIONS[generation]["replay"], request, ReplayResponse)
    assert replayed.success
    if generation == "event":
        assert replayed.event_data == envelope("hello")
        return
    record = json.loads(replayed.event_data)
    assert record["eventIdem"] == published.event_idem
    assert record["payload"] == envelope("hello")
    assert record["partitionBlock"] == "0"
    replay_info = json.loads(record["metadata"])["$internal"]["replay_info"]
    assert replay_info["was_acknowledged"] == {"is_string": False, "content": "false"}


@both_generations
@conversation()
async def test_pause_and_continue(talk: Conversation, generation: str) -> None:
    names = GENERATIONS[generation]
    client = await talk.client()
    async with client.subscribed() as stream:
        pause = PauseRequest(client_id=client.client_id, event_name=NAME, reason="maintenance")
        assert (await client.call(names["pause"], pause, PauseResponse)).success
        await client.publish()
        assert talk.engine.statistics().delivered == 0
        resume = ContinueRequest(client_id=client.client_id, event_name=NAME)
        assert (await client.call(names["continue"], resume, ContinueResponse)).success
        await receive(stream)


@both_generations
async def test_an_engine_of_one_generation_lacks_the_other(generation: str) -> None:
    @conversation(generations=(generation,))
    async def scenario(talk: Conversation) -> None:
        client = await talk.client()
        for offered, names in GENERATIONS.items():
            request = publish_request(client)
            if offered == generation:
                await client.call(names["publish"], request, PublishEventResponse)
                continue
            with pytest.raises(GRPCError) as caught:
                await client.call(names["publish"], request, PublishEventResponse)
            assert caught.value.status is Status.UNIMPLEMENTED

    await scenario()


# Answers


@conversation()
async def test_refusals_are_normal_replies(talk: Conversation) -> None:
    client = await talk.client()
    refused = await client.call("Connect", ConnectRequest(access_key="wrong-key"), ConnectResponse)
    assert (refused.success, refused.error_message) == (False, "unknown app key")
    refused_publish = await client.publish(payload="no base64!")
    assert not refused_publish.success
    assert "base64" in refused_publish.error_message
    refused_ack = await ack(client, "no-such-event", 0)
    assert not refused_ack.success
    assert "unknown event" in refused_ack.message


@conversation()
async def test_heartbeats(talk: Conversation) -> None:
    client = await talk.client()
    request = HeartbeatRequest(client_id=client.client_id)
    assert (await client.call("Heartbeat", request, HeartbeatResponse)).success
    request = HeartbeatRequest(client_id="stranger")
    assert not (await client.call("Heartbeat", request, HeartbeatResponse)).success


@conversation()
async def test_refused_subscriptions_end_with_a_status(talk: Conversation) -> None:
    narrow = talk.engine.create_app("narrow", receive=["orders/lost"])
    client = await talk.client(narrow)
    for name, client_id, status in [
        (NAME, client.client_id, Status.PERMISSION_DENIED),
        ("a;b", client.client_id, Status.INVALID_ARGUMENT),
        ("orders/lost", "stranger", Status.UNAUTHENTICATED),
    ]:
        client.client_id = client_id
        with pytest.raises(GRPCError) as caught:
            async with client.subscribed(name):
                pass
        assert caught.value.status is status
        assert caught.value.message


@conversation()
async def test_unsubscribing_ends_the_stream(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed() as stream:
        request = UnsubscribeRequest(client_id=client.client_id, event_name=NAME)
        response = await client.call("Unsubscribe", request, UnsubscribeResponse)
        assert response.success
        assert await status_at_the_end(stream) is Status.OK


@conversation()
async def test_a_later_stream_replaces_the_first(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed() as first:
        await client.publish()
        await receive(first)
        async with client.subscribed() as second:
            await receive(second)
            assert await status_at_the_end(first) is Status.ALREADY_EXISTS


@conversation(early_headers=False)
async def test_headers_may_come_with_the_first_event_only(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribing() as stream:
        await until(lambda: talk.engine.statistics().subscriptions)
        with anyio.move_on_after(0.05) as waited:
            await stream.recv_initial_metadata()
        assert waited.cancelled_caught
        await client.publish()
        await receive(stream)


@conversation(max_in_flight=2)
async def test_no_more_in_flight_than_allowed(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed() as stream:
        for _ in range(4):
            await client.publish()
        first, _ = await receive(stream), await receive(stream)
        assert talk.engine.statistics().delivered == 2
        await ack(client, first.event_idem, first.partition_block)
        await receive(stream)
        assert talk.engine.statistics().delivered == 3


# Ends


@conversation()
async def test_cancelling_a_stream_gives_back(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed() as stream:
        await client.publish()
        event = await receive(stream)
    async with client.subscribed() as stream:
        again = await receive(stream)
        assert again.event_idem == event.event_idem


@conversation()
async def test_closing_a_connection_gives_back_and_forgets(talk: Conversation) -> None:
    leaving, staying = await talk.client(), await talk.client()
    async with staying.subscribed() as stream:
        await staying.publish()
        event = await receive(stream)
        async with leaving.subscribed() as other:
            await staying.publish()
            await staying.publish()
            await until(lambda: talk.engine.statistics().delivered == 3)
            await receive(other)
            leaving.close()
            await until(lambda: talk.engine.statistics().clients == 1)
            others = {(await receive(stream)).event_idem for _ in range(2)}
    assert event.event_idem not in others
    gone = HeartbeatRequest(client_id=leaving.client_id)
    assert not (await staying.call("Heartbeat", gone, HeartbeatResponse)).success


@conversation()
async def test_a_client_may_use_several_connections(talk: Conversation) -> None:
    client, other = await talk.client(), await talk.client()
    other.client_id = client.client_id
    async with client.subscribed() as stream:
        await other.publish()
        event = await receive(stream)
        assert (await ack(other, event.event_idem, event.partition_block)).success
    client.close()
    await until(lambda: talk.engine.statistics().subscriptions == 0)
    request = HeartbeatRequest(client_id=client.client_id)
    assert (await other.call("Heartbeat", request, HeartbeatResponse)).success


@conversation()
async def test_a_subscription_on_another_connection_is_a_use_of_it(talk: Conversation) -> None:
    client, other, publisher = await talk.client(), await talk.client(), await talk.client()
    other.client_id = client.client_id
    async with other.subscribed() as stream:
        client.close()
        await until(lambda: talk.connections == 2)
        await publisher.publish()
        await receive(stream)


@conversation()
async def test_stopping_ends_streams_so_that_clients_come_back(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed() as stream:
        await talk.engine.broker.shut_down()
        assert await status_at_the_end(stream) is Status.UNAVAILABLE


@conversation()
async def test_many_subscriptions_on_one_connection(talk: Conversation) -> None:
    client = await talk.client()
    names = [f"orders/{number}" for number in range(50)]

    async def one(name: str) -> None:
        async with client.subscribed(name) as stream:
            published = await client.publish(name=name)
            assert (await receive(stream)).event_idem == published.event_idem

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(one, name)
    await until(lambda: talk.engine.statistics().subscriptions == 0)


@conversation()
async def test_a_stream_that_is_not_read_stalls_no_other_call(talk: Conversation) -> None:
    client = await talk.client()
    large = "x" * 200_000
    async with client.subscribed("unread"), client.subscribed() as stream:
        for _ in range(40):
            assert (await client.publish(large, name="unread")).success
        with anyio.fail_after(5):
            for _ in range(5):
                await client.publish()
                await receive(stream)


@conversation(max_concurrent_streams=3)
async def test_the_stream_limit_is_announced(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed("one"), client.subscribed("two"):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(client.publish)
        assert talk.engine.statistics().published == 10
        protocol = await client.channel.__connect__()
        connection = protocol.connection._connection
        assert connection.remote_settings.max_concurrent_streams == 3


@conversation()
async def test_a_reset_call_is_still_finished(talk: Conversation) -> None:
    client = await talk.client()
    await client.publish()
    with anyio.move_on_after(0):
        await client.publish()
    assert (await client.publish()).success
    with pytest.raises((GRPCError, StreamTerminatedError)):
        async with client.subscribed() as stream:
            client.close()
            await stream.recv_message()
