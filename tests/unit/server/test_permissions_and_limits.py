from __future__ import annotations

import json

import pytest

from ensync.server.broker import Publication
from ensync.server.refusal import Reason, Refusal
from tests.unit.server.brokers import NAME, TestBroker, envelope, take, texts

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@pytest.fixture
def bench() -> TestBroker:
    return TestBroker()


async def refusal_of(bench: TestBroker, publication: Publication) -> Refusal:
    client_id = bench.connect(bench.shop)
    with pytest.raises(Refusal) as caught:
        await bench.broker.publish(client_id, publication)
    assert bench.broker.statistics().published == 0
    return caught.value


async def test_an_app_sends_only_what_it_may(bench: TestBroker) -> None:
    app = bench.apps.create("narrow", send=["orders/lost"], receive=[])
    client_id = bench.connect(app)
    await bench.broker.publish(client_id, bench.publication(event_name="orders/lost"))
    with pytest.raises(Refusal, match="no permission to send 'orders/paid'") as caught:
        await bench.broker.publish(client_id, bench.publication())
    assert caught.value.reason is Reason.FORBIDDEN


async def test_an_app_receives_only_what_it_may(bench: TestBroker) -> None:
    app = bench.apps.create("narrow", send=[], receive=["orders/lost"])
    client_id = bench.connect(app)
    await bench.broker.subscribe(client_id, "orders/lost")
    with pytest.raises(Refusal, match="no permission to receive 'orders/paid'") as caught:
        await bench.broker.subscribe(client_id, NAME)
    assert caught.value.reason is Reason.FORBIDDEN


BAD_NAMES = ["", "a;b", "a\nb", "a\x00b", "x" * 513, " padded ", "\u2028"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_bad_event_names_are_refused_everywhere(bench: TestBroker, name: str) -> None:
    client_id = bench.connect(bench.shop)
    assert "event_name" in str(await refusal_of(bench, bench.publication(event_name=name)))
    for request_ in (bench.broker.subscribe, bench.broker.unsubscribe):
        with pytest.raises(Refusal, match="event_name"):
            await request_(client_id, name)
    for control in (bench.broker.pause, bench.broker.resume):
        with pytest.raises(Refusal, match="event_name"):
            control(client_id, name)


@pytest.mark.parametrize("idem", BAD_NAMES)
async def test_bad_event_ids_are_refused(bench: TestBroker, idem: str) -> None:
    client_id = bench.connect(bench.shop)
    for request_ in (
        bench.broker.ack(client_id, idem, 0),
        bench.broker.rollback(client_id, idem, 0),
        bench.broker.defer(client_id, idem, 0),
        bench.broker.discard(client_id, idem),
        bench.broker.replay(client_id, idem),
    ):
        with pytest.raises(Refusal, match="event_idem"):
            await request_


@pytest.mark.parametrize("reason", ["a;EVENT_NAME=:b", "a\nb", "x" * 1025])
async def test_bad_reasons_are_refused(bench: TestBroker, reason: str) -> None:
    client_id, consumer = await bench.subscriber()
    idem = await bench.publish()
    await take(consumer, 1)
    with pytest.raises(Refusal, match="reason"):
        await bench.broker.defer(client_id, idem, 0, reason)
    with pytest.raises(Refusal, match="reason"):
        await bench.broker.discard(client_id, idem, reason)
    with pytest.raises(Refusal, match="reason"):
        bench.broker.pause(client_id, NAME, reason)
    assert consumer.in_hand == 1


@pytest.mark.parametrize(
    "payload", ["", "not base64!", "YQ", "YQ==YQ==", "YQ==\n", "YWI-", "\u00e9\u00e9\u00e9\u00e9"]
)
async def test_a_payload_must_be_base64(bench: TestBroker, payload: str) -> None:
    refusal = await refusal_of(bench, bench.publication(payload=payload))
    assert "base64" in str(refusal)
    assert refusal.reason is Reason.INVALID


@pytest.mark.parametrize("recipient", ["", "billing", "AAAA", "A" * 44, "=" * 44])
async def test_a_recipient_must_be_an_app_id(bench: TestBroker, recipient: str) -> None:
    refusal = await refusal_of(bench, bench.publication(delivery_to=recipient))
    assert "app id" in str(refusal)


async def test_a_recipient_must_be_known(bench: TestBroker) -> None:
    elsewhere = TestBroker()
    publication = bench.publication(delivery_to=elsewhere.shop.app_id)
    assert "no app with this app id" in str(await refusal_of(bench, publication))


@pytest.mark.parametrize(
    "metadata", ["{", "[]", '"text"', "1", '{"a": NaN}', "[" * 100_000, "{}{}", "undefined"]
)
async def test_metadata_must_be_a_json_object(bench: TestBroker, metadata: str) -> None:
    assert "metadata" in str(await refusal_of(bench, bench.publication(metadata=metadata)))


@pytest.mark.parametrize(
    "payload_metadata",
    [
        "",
        "[]",
        '{"byte_size": -1}',
        '{"byte_size": "12"}',
        '{"byte_size": true}',
        '{"skeleton": []}',
        '{"skeleton": {"a": "text"}}',
        '{"skeleton": {"a": {}}}',
    ],
)
async def test_payload_metadata_must_be_as_agreed(bench: TestBroker, payload_metadata: str) -> None:
    publication = bench.publication(payload_metadata=payload_metadata)
    assert "payload_metadata" in str(await refusal_of(bench, publication))


async def test_good_payload_metadata_is_kept(bench: TestBroker) -> None:
    description = json.dumps({"byte_size": 12, "skeleton": {"a": "integer", "b": "null"}})
    client_id, consumer = await bench.subscriber()
    await bench.broker.publish(client_id, bench.publication(payload_metadata=description))
    [stored] = await take(consumer, 1)
    assert stored.event.payload_metadata == description


async def test_the_size_of_a_payload_is_limited(bench: TestBroker) -> None:
    largest = "A" * (4 * MIB)
    refusal = await refusal_of(bench, bench.publication(payload=largest + "AAAA"))
    assert "too large" in str(refusal)
    await bench.broker.publish(bench.connect(bench.shop), bench.publication(payload=largest))


async def test_the_size_of_an_event_is_limited(bench: TestBroker) -> None:
    publication = bench.publication(
        payload="A" * (4 * MIB), metadata=json.dumps({"a": "x" * (2 * MIB)})
    )
    assert "too large" in str(await refusal_of(bench, publication))


async def test_refusals_show_little_of_what_was_sent(bench: TestBroker) -> None:
    client_id, _ = await bench.subscriber()
    with pytest.raises(Refusal) as caught:
        await bench.broker.unsubscribe(client_id, "x" * 500)
    assert len(str(caught.value)) < 200
    with pytest.raises(Refusal) as caught:
        bench.broker.heartbeat("\x1b[31m" + "x" * 100_000)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


async def test_the_number_of_subscriptions_is_limited() -> None:
    bench = TestBroker(subscriptions_per_client=2)
    client_id = bench.connect(bench.billing)
    await bench.broker.subscribe(client_id, "one")
    await bench.broker.subscribe(client_id, "two")
    with pytest.raises(Refusal, match="too many subscriptions"):
        await bench.broker.subscribe(client_id, "three")
    await bench.broker.subscribe(client_id, "two")
    await bench.broker.unsubscribe(client_id, "one")
    await bench.broker.subscribe(client_id, "three")


async def test_a_full_store_refuses_and_recovers() -> None:
    bench = TestBroker(store_bytes=10_000)
    client_id, consumer = await bench.subscriber()
    shop = bench.connect(bench.shop)
    publication = bench.publication(payload=envelope("x" * 6_000))
    await bench.broker.publish(shop, publication)
    with pytest.raises(Refusal, match="full") as caught:
        await bench.broker.publish(shop, publication)
    assert caught.value.reason is Reason.LIMIT
    [stored] = await take(consumer, 1)
    await bench.broker.ack(client_id, stored.idem, stored.block)
    await bench.broker.publish(shop, publication)
    assert len(texts(await take(consumer, 1))) == 1
