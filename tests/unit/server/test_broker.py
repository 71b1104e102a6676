from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import anyio
import pytest

from ensync.server.consumer import Consumer, Credit, EndReason
from ensync.server.refusal import Reason, Refusal
from tests.unit.server.brokers import (
    NAME,
    TestBroker,
    settle_down,
    take,
    take_what_is_there,
    texts,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def bench() -> TestBroker:
    return TestBroker()


# Connecting


async def test_a_client_is_a_new_one_at_each_connect(bench: TestBroker) -> None:
    first = bench.broker.connect(bench.shop.app_key, "connection")
    second = bench.broker.connect(bench.shop.app_key, "connection")
    assert first.client_id != second.client_id
    assert first.app_id == second.app_id == bench.shop.app_id


async def test_an_unknown_key_is_refused_and_not_shown(bench: TestBroker) -> None:
    with pytest.raises(Refusal) as caught:
        bench.broker.connect("not-a-key-at-all", "connection")
    assert caught.value.reason is Reason.UNKNOWN_KEY
    assert "not-a-key-at-all" not in str(caught.value)


async def test_the_number_of_clients_is_limited() -> None:
    bench = TestBroker(clients=2)
    bench.connect(bench.shop)
    bench.connect(bench.shop, "leaving")
    with pytest.raises(Refusal, match="too many clients"):
        bench.connect(bench.shop)
    await bench.broker.connection_closed("leaving")
    bench.connect(bench.shop)


ASKED_BY_STRANGERS: list[Callable[[TestBroker], Awaitable[object]]] = [
    lambda bench: bench.broker.publish("stranger", bench.publication()),
    lambda bench: bench.broker.subscribe("stranger", NAME),
    lambda bench: bench.broker.unsubscribe("stranger", NAME),
    lambda bench: bench.broker.ack("stranger", "event-0", 0),
    lambda bench: bench.broker.rollback("stranger", "event-0", 0),
    lambda bench: bench.broker.defer("stranger", "event-0", 0),
    lambda bench: bench.broker.discard("stranger", "event-0"),
    lambda bench: bench.broker.replay("stranger", "event-0"),
]


@pytest.mark.parametrize("request_", ASKED_BY_STRANGERS)
async def test_unknown_clients_are_refused(
    bench: TestBroker, request_: Callable[[TestBroker], Awaitable[object]]
) -> None:
    await bench.publish()
    with pytest.raises(Refusal, match="connect again") as caught:
        await request_(bench)
    assert caught.value.reason is Reason.UNKNOWN_CLIENT


async def test_unknown_clients_can_not_pause_or_beat(bench: TestBroker) -> None:
    for request_ in (bench.broker.pause, bench.broker.resume):
        with pytest.raises(Refusal, match="connect again"):
            request_("stranger", NAME)
    with pytest.raises(Refusal, match="connect again"):
        bench.broker.heartbeat("stranger")


# Delivering


async def test_an_event_goes_to_a_subscriber_with_all_it_has(bench: TestBroker) -> None:
    _, consumer = await bench.subscriber()
    idem = await bench.publish("hello", metadata='{"source": "web"}')
    [stored] = await take(consumer, 1)
    assert stored.idem == idem
    assert stored.event.sender == bench.shop.app_id
    assert stored.event.queue == (bench.billing.app_id, NAME)
    assert stored.event.metadata == '{"source": "web"}'
    assert texts([stored]) == ["hello"]
    assert stored.logged_at_ms == bench.now_ms()


async def test_an_event_waits_for_a_subscriber(bench: TestBroker) -> None:
    await bench.publish_many(3)
    _, consumer = await bench.subscriber()
    assert texts(await take(consumer, 3)) == ["e0", "e1", "e2"]


async def test_events_of_other_names_and_apps_are_not_delivered(bench: TestBroker) -> None:
    await bench.publish(event_name="orders/lost")
    shop_client = bench.connect(bench.shop)
    shop_consumer = await bench.broker.subscribe(shop_client, NAME)
    await bench.publish()
    assert await take_what_is_there(shop_consumer) == []


async def test_clients_of_one_app_compete(bench: TestBroker) -> None:
    _, first = await bench.subscriber()
    _, second = await bench.subscriber()
    got: dict[str, list[str]] = {"first": [], "second": []}

    async def consume(name: str, consumer: Consumer) -> None:
        while batch := await consumer.take():
            got[name] += texts(batch)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume, "first", first)
        tasks.start_soon(consume, "second", second)
        for number in range(20):
            await bench.publish(f"e{number:02}")
            await settle_down()
        tasks.cancel_scope.cancel()
    assert sorted(got["first"] + got["second"]) == [f"e{number:02}" for number in range(20)]
    assert len(got["first"]) == len(got["second"]) == 10
    assert got["first"] == sorted(got["first"])


async def test_credit_limits_what_is_in_hand() -> None:
    bench = TestBroker(credit=Credit(events=3))
    client_id, consumer = await bench.subscriber()
    await bench.publish_many(5)
    first = await take_what_is_there(consumer)
    assert texts(first) == ["e0", "e1", "e2"]
    await bench.broker.ack(client_id, first[1].idem, first[1].block)
    assert texts(await take_what_is_there(consumer)) == ["e3"]


async def test_a_waiting_consumer_goes_on_when_it_gets_credit() -> None:
    bench = TestBroker(credit=Credit(events=1))
    client_id, consumer = await bench.subscriber()
    await bench.publish_many(2)
    [first] = await take(consumer, 1)
    got: list[str] = []

    async def take_on() -> None:
        got.extend(texts(await take(consumer, 1)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_on)
        await settle_down()
        assert got == []
        await bench.broker.ack(client_id, first.idem, first.block)
    assert got == ["e1"]


async def test_credit_limits_bytes_too() -> None:
    bench = TestBroker(credit=Credit(bytes=2000))
    client_id, consumer = await bench.subscriber()
    for _ in range(5):
        await bench.publish("x" * 900)
    first, second = await take_what_is_there(consumer)
    await bench.broker.ack(client_id, first.idem, first.block)
    assert len(await take_what_is_there(consumer)) == 1
    await bench.broker.discard(client_id, second.idem)
    assert len(await take_what_is_there(consumer)) == 1


async def test_an_event_is_not_parked_where_it_can_not_be_handed_out() -> None:
    bench = TestBroker(credit=Credit(events=1))
    _, full = await bench.subscriber()
    await bench.publish_many(2)
    await take(full, 1)
    _, other = await bench.subscriber()
    assert texts(await take(other, 1)) == ["e1"]


async def test_cancelling_take_loses_nothing(bench: TestBroker) -> None:
    _, consumer = await bench.subscriber()
    got: list[str] = []

    async def take_once() -> None:
        got.extend(texts(await consumer.take()))

    for turns in range(8):
        await bench.publish(f"e{turns}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_once)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    got += texts(await take_what_is_there(consumer))
    assert got == [f"e{turns}" for turns in range(8)]


# Settling


async def test_an_acknowledged_event_does_not_come_again(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    await bench.broker.ack(client_id, stored.idem, stored.block, NAME)
    await consumer.close()
    _, other = await bench.subscriber()
    assert await take_what_is_there(other) == []


@pytest.mark.parametrize("settled_by", ["ack", "discard"])
async def test_settling_again_is_refused_with_already(bench: TestBroker, settled_by: str) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    if settled_by == "ack":
        await bench.broker.ack(client_id, stored.idem, stored.block)
    else:
        await bench.broker.discard(client_id, stored.idem)
    word = "already acknowledged" if settled_by == "ack" else "already discarded"
    with pytest.raises(Refusal, match=word):
        await bench.broker.ack(client_id, stored.idem, stored.block)
    with pytest.raises(Refusal, match=word):
        await bench.broker.discard(client_id, stored.idem)
    with pytest.raises(Refusal, match=word):
        await bench.broker.defer(client_id, stored.idem, 1000)
    with pytest.raises(Refusal, match=word):
        await bench.broker.rollback(client_id, stored.idem, stored.block)


async def test_another_client_of_the_app_may_settle(bench: TestBroker) -> None:
    _, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    await bench.broker.ack(bench.connect(bench.billing), stored.idem, stored.block)
    assert consumer.in_hand == 0


async def test_another_app_can_neither_settle_nor_see(bench: TestBroker) -> None:
    _, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    stranger = bench.connect(bench.shop)
    texts_of_refusals: set[str] = set()
    for idem in (stored.idem, "event-99"):
        for request_ in (
            bench.broker.ack(stranger, idem, 0),
            bench.broker.rollback(stranger, idem, 0),
            bench.broker.defer(stranger, idem, 1000),
            bench.broker.discard(stranger, idem),
            bench.broker.replay(stranger, idem),
        ):
            with pytest.raises(Refusal) as caught:
                await request_
            assert caught.value.reason is Reason.NOT_FOUND
            texts_of_refusals.add(str(caught.value).replace(idem, "IDEM"))
    assert len(texts_of_refusals) == 1, "another app's event can be told from none"
    assert consumer.in_hand == 1


async def test_the_block_must_be_right(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    with pytest.raises(Refusal, match="not in block 7"):
        await bench.broker.ack(client_id, stored.idem, 7)
    with pytest.raises(Refusal, match="not in block 7"):
        await bench.broker.rollback(client_id, stored.idem, 7)
    assert consumer.in_hand == 1


async def test_the_name_must_be_right_if_given(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    with pytest.raises(Refusal, match="not named"):
        await bench.broker.ack(client_id, stored.idem, stored.block, "orders/lost")
    with pytest.raises(Refusal, match="not named"):
        await bench.broker.replay(client_id, stored.idem, "orders/lost")
    await bench.broker.ack(client_id, stored.idem, stored.block, "")


@pytest.mark.parametrize("settle", ["ack", "discard", "defer"])
async def test_an_event_that_waits_again_can_be_settled(bench: TestBroker, settle: str) -> None:
    _, consumer = await bench.subscriber()
    await bench.publish_many(2)
    [first, _] = await take(consumer, 2)
    await consumer.close()
    client_id = bench.connect(bench.billing)
    if settle == "ack":
        await bench.broker.ack(client_id, first.idem, first.block)
    elif settle == "discard":
        await bench.broker.discard(client_id, first.idem)
    else:
        await bench.broker.defer(client_id, first.idem, 1000)
    _, other = await bench.subscriber()
    assert texts(await take_what_is_there(other)) == ["e1"]
    bench.advance(2)
    assert texts(await take_what_is_there(other)) == (["e0"] if settle == "defer" else [])


async def test_an_event_in_another_hand_can_be_settled(bench: TestBroker) -> None:
    first_client, first = await bench.subscriber()
    await bench.publish()
    [stored] = await take(first, 1)
    await first.close()
    second_client, second = await bench.subscriber()
    assert len(await take(second, 1)) == 1
    await bench.broker.ack(first_client, stored.idem, stored.block)
    assert second.in_hand == 0
    with pytest.raises(Refusal, match="already acknowledged"):
        await bench.broker.ack(second_client, stored.idem, stored.block)


async def test_concurrent_acks_settle_once(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    refusals: list[str] = []

    async def ack() -> None:
        try:
            await bench.broker.ack(client_id, stored.idem, stored.block)
        except Refusal as refusal:
            refusals.append(str(refusal))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ack)
    assert len(refusals) == 4
    assert all("already acknowledged" in text for text in refusals)
    assert bench.broker.statistics().acknowledged == 1


async def test_a_deferred_event_comes_back_when_due(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish_many(2)
    [first, _] = await take(consumer, 2)
    due_ms = await bench.broker.defer(client_id, first.idem, 60_000, "later")
    assert due_ms == bench.now_ms() + 60_000
    bench.advance(59)
    assert await take_what_is_there(consumer) == []
    bench.advance(1)
    assert texts(await take(consumer, 1)) == ["e0"]
    assert bench.broker.statistics().redelivered == 1


async def test_deferring_by_nothing_delivers_at_once(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    await bench.broker.defer(client_id, stored.idem, 0)
    assert texts(await take(consumer, 1)) == ["e"]


@pytest.mark.parametrize("delay_ms", [-1, 1, 999, 86_400_001, 2**62])
async def test_delays_out_of_bounds_are_refused(bench: TestBroker, delay_ms: int) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    [stored] = await take(consumer, 1)
    with pytest.raises(Refusal, match="86400000 milliseconds"):
        await bench.broker.defer(client_id, stored.idem, delay_ms)
    assert consumer.in_hand == 1


async def test_a_rollback_delivers_at_once(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish_many(3)
    stored = await take(consumer, 3)
    await bench.broker.rollback(client_id, stored[1].idem, stored[1].block)
    assert texts(await take(consumer, 1)) == ["e1"]


# Ending


async def test_closing_gives_back_at_once_in_order(bench: TestBroker) -> None:
    _, consumer = await bench.subscriber()
    await bench.publish_many(6)
    taken = await take(consumer, 5)
    await bench.broker.ack(bench.connect(bench.billing), taken[2].idem, taken[2].block)
    await consumer.close()
    _, other = await bench.subscriber()
    assert texts(await take(other, 5)) == ["e0", "e1", "e3", "e4", "e5"]


async def test_a_closed_consumer_wakes_with_nothing(bench: TestBroker) -> None:
    _, consumer = await bench.subscriber()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.close)
        with anyio.fail_after(5):
            assert await consumer.take() == []
    assert consumer.end_reason is EndReason.CLOSED
    await bench.publish()
    assert await consumer.take() == []


async def test_subscribing_again_replaces(bench: TestBroker) -> None:
    client_id, first = await bench.subscriber()
    await bench.publish_many(2)
    await take(first, 1)
    second = await bench.broker.subscribe(client_id, NAME)
    assert first.end_reason is EndReason.REPLACED
    assert await first.take() == []
    assert texts(await take(second, 2)) == ["e0", "e1"]
    await first.close()
    assert bench.broker.statistics().subscriptions == 1
    await bench.publish("e2")
    assert texts(await take(second, 1)) == ["e2"]


async def test_unsubscribing_ends_the_consumer(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    await take(consumer, 1)
    await bench.broker.unsubscribe(client_id, NAME)
    assert consumer.end_reason is EndReason.UNSUBSCRIBED
    with pytest.raises(Refusal, match="not subscribed"):
        await bench.broker.unsubscribe(client_id, NAME)
    _, other = await bench.subscriber()
    assert texts(await take(other, 1)) == ["e"]


async def test_shutting_down_ends_all(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish()
    await take(consumer, 1)
    await bench.broker.shut_down()
    assert consumer.end_reason is EndReason.SHUTDOWN
    assert bench.broker.statistics().in_hand == 0
    with pytest.raises(Refusal, match="stopping"):
        await bench.broker.subscribe(client_id, NAME)


# Pausing


async def test_pause_stops_this_client_only(bench: TestBroker) -> None:
    client_id, paused = await bench.subscriber()
    bench.broker.pause(client_id, NAME, "maintenance")
    await bench.publish_many(2)
    assert await take_what_is_there(paused) == []
    _, other = await bench.subscriber()
    assert texts(await take(other, 2)) == ["e0", "e1"]


async def test_what_a_paused_client_has_in_hand_stays_its_own(bench: TestBroker) -> None:
    client_id, paused = await bench.subscriber()
    await bench.publish()
    [stored] = await take(paused, 1)
    bench.broker.pause(client_id, NAME)
    _, other = await bench.subscriber()
    assert await take_what_is_there(other) == []
    await bench.broker.ack(client_id, stored.idem, stored.block)


async def test_pause_interrupts_a_waiting_consumer(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    got: list[str] = []

    async def consume() -> None:
        while batch := await consumer.take():
            got.extend(texts(batch))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        await settle_down()
        bench.broker.pause(client_id, NAME)
        await bench.publish_many(2)
        await settle_down()
        assert got == []
        bench.broker.resume(client_id, NAME)
        await settle_down()
        assert got == ["e0", "e1"]
        tasks.cancel_scope.cancel()


async def test_pausing_and_resuming_twice_changes_nothing(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    bench.broker.resume(client_id, NAME)
    bench.broker.pause(client_id, NAME)
    bench.broker.pause(client_id, NAME)
    bench.broker.resume(client_id, NAME)
    await bench.publish()
    assert texts(await take(consumer, 1)) == ["e"]


async def test_pausing_needs_a_subscription(bench: TestBroker) -> None:
    client_id, _ = await bench.subscriber()
    for request_ in (bench.broker.pause, bench.broker.resume):
        with pytest.raises(Refusal, match="not subscribed to 'orders/lost'"):
            request_(client_id, "orders/lost")


async def test_a_pause_outlives_a_stream_but_not_an_unsubscribe(bench: TestBroker) -> None:
    client_id, first = await bench.subscriber()
    bench.broker.pause(client_id, NAME)
    await first.close()
    await bench.publish()
    second = await bench.broker.subscribe(client_id, NAME)
    assert await take_what_is_there(second) == []
    await bench.broker.unsubscribe(client_id, NAME)
    third = await bench.broker.subscribe(client_id, NAME)
    assert texts(await take(third, 1)) == ["e"]


# Replaying


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_replay_returns_to_the_caller_alone(bench: TestBroker, acknowledged: bool) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish("hello", metadata='{"source": "web", "$internal": {"x": 1}}')
    [stored] = await take(consumer, 1)
    if acknowledged:
        await bench.broker.ack(client_id, stored.idem, stored.block)
    replayed = await bench.broker.replay(client_id, stored.idem, NAME)
    assert texts([replayed]) == ["hello"]
    assert (replayed.idem, replayed.block) == (stored.idem, stored.block)
    assert json.loads(replayed.event.metadata) == {
        "source": "web",
        "$internal": {
            "x": 1,
            "replay_info": {
                "is_replayed": {"is_string": False, "content": "true"},
                "replay_timestamp": {"is_string": False, "content": str(bench.now_ms())},
                "was_acknowledged": {
                    "is_string": False,
                    "content": "true" if acknowledged else "false",
                },
            },
        },
    }
    assert await take_what_is_there(consumer) == []


async def test_a_discarded_event_can_be_replayed(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish("hello")
    [stored] = await take(consumer, 1)
    await bench.broker.discard(client_id, stored.idem, "unwanted")
    assert texts([await bench.broker.replay(client_id, stored.idem)]) == ["hello"]


@pytest.mark.parametrize(
    "metadata",
    ['{"persist": false}', '{"persist": {"is_string": false, "content": "false"}}'],
)
async def test_what_is_not_to_persist_can_not_be_replayed_once_settled(
    bench: TestBroker, metadata: str
) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish("hello", metadata=metadata)
    [stored] = await take(consumer, 1)
    assert texts([await bench.broker.replay(client_id, stored.idem)]) == ["hello"]
    await bench.broker.ack(client_id, stored.idem, stored.block)
    with pytest.raises(Refusal, match="persist = false"):
        await bench.broker.replay(client_id, stored.idem)
    with pytest.raises(Refusal, match="already acknowledged"):
        await bench.broker.ack(client_id, stored.idem, stored.block)


@pytest.mark.parametrize("metadata", ["{}", '{"persist": true}', '{"persist": null}', "", "null"])
async def test_everything_else_persists(bench: TestBroker, metadata: str) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish("hello", metadata=metadata)
    [stored] = await take(consumer, 1)
    await bench.broker.ack(client_id, stored.idem, stored.block)
    assert texts([await bench.broker.replay(client_id, stored.idem)]) == ["hello"]


# Coming and going


async def test_a_client_goes_with_its_last_connection(bench: TestBroker) -> None:
    client_id = bench.connect(bench.billing, "first")
    bench.broker.attach(client_id, "second")
    consumer = await bench.broker.subscribe(client_id, NAME)
    await bench.publish()
    await take(consumer, 1)
    await bench.broker.connection_closed("first")
    bench.broker.heartbeat(client_id)
    assert consumer.end_reason is None
    await bench.broker.connection_closed("second")
    assert consumer.end_reason is EndReason.CLIENT_GONE
    with pytest.raises(Refusal, match="connect again"):
        bench.broker.heartbeat(client_id)
    _, other = await bench.subscriber()
    assert texts(await take(other, 1)) == ["e"]


async def test_attaching_an_unknown_client_keeps_nothing(bench: TestBroker) -> None:
    bench.broker.attach("stranger", "connection")
    await bench.broker.connection_closed("connection")
    await bench.broker.connection_closed("never heard of")


async def test_a_silent_client_without_a_subscription_is_forgotten(bench: TestBroker) -> None:
    silent, beating = bench.connect(bench.shop), bench.connect(bench.shop)
    listening, consumer = await bench.subscriber()
    for _ in range(2):
        bench.advance(50)
        bench.broker.heartbeat(beating)
        await bench.broker.tend()
    with pytest.raises(Refusal, match="connect again"):
        bench.broker.heartbeat(silent)
    bench.broker.heartbeat(beating)
    bench.broker.heartbeat(listening)
    assert consumer.end_reason is None


async def test_a_removed_app_is_out_at_once(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    bench.apps.remove(bench.billing.app_id)
    with pytest.raises(Refusal, match="removed"):
        await bench.broker.subscribe(client_id, "orders/lost")
    await bench.broker.disconnect_app(bench.billing.app_id)
    assert consumer.end_reason is EndReason.CLIENT_GONE
    with pytest.raises(Refusal, match="unknown app key"):
        bench.connect(bench.billing)
    with pytest.raises(Refusal, match="no app with this app id"):
        await bench.publish()


async def test_statistics_count(bench: TestBroker) -> None:
    client_id, consumer = await bench.subscriber()
    await bench.publish_many(4)
    events = await take(consumer, 4)
    await bench.broker.ack(client_id, events[0].idem, events[0].block)
    await bench.broker.discard(client_id, events[1].idem)
    await bench.broker.defer(client_id, events[2].idem, 0)
    await bench.broker.replay(client_id, events[0].idem)
    await take(consumer, 1)
    statistics = bench.broker.statistics()
    assert statistics.subscriptions == 1
    assert statistics.in_hand == 2
    assert statistics.published == 4
    assert statistics.delivered == 5
    assert statistics.redelivered == 1
    assert statistics.acknowledged == 1
    assert statistics.deferred == 1
    assert statistics.discarded == 1
    assert statistics.replayed == 1
