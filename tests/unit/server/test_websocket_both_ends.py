"""Our client and our door: whatever a value holds, it arrives as it was, and where it belongs."""

from __future__ import annotations

import json
import unicodedata
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from ensync.address import parse_address
from ensync.errors import EnSyncError, EnSyncValidationError
from ensync.server.publication import MAX_PAYLOAD_BYTES
from ensync.server.store import QueueKey
from ensync.transports.base import (
    Acknowledge,
    Call,
    Defer,
    Delivery,
    Discard,
    Link,
    Outcome,
    Pause,
    Publish,
    Replay,
    Request,
)
from ensync.transports.websocket import WebSocketTransport
from tests.unit.server.websocket_door import OpenDoor, open_door

MEBIBYTE = 1 << 20
MANY = 2_000

# Each example opens a door, so that shrinking one would run into the time limit.
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)

PIECES = st.sampled_from([*";=:\n\r\0\t\\\"{},'", "=:", ";EVENT_NAME=:other", "\u2028", "é"])
TRICKY = st.lists(PIECES | st.text(max_size=4), max_size=5).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=5,
)
# A ttl means something to the engine; hypothesis finds the word in its source.
METADATA = st.dictionaries(TRICKY.filter(lambda key: key != "ttl"), VALUES, max_size=3)


def _ignore(delivery: Delivery) -> None:
    """What becomes of a delivery that a test does not act on."""


class Client:
    """A link with its answers by the number of the request, and its deliveries by id."""

    def __init__(self, door: OpenDoor, link: Link) -> None:
        self.door = door
        self.link = link
        self.answers: dict[int, Outcome | EnSyncError] = {}
        self.calls: list[Call] = []
        self.subscribed: set[str] = set()
        self.deliveries: dict[str, Delivery] = {}
        self.on_delivery: Callable[[Delivery], None] = _ignore
        self._changed = anyio.Event()

    def send(self, request: Request) -> None:
        number = len(self.calls)

        def on_reply(answer: Outcome | EnSyncError) -> None:
            assert number not in self.answers, "answered twice"
            self.answers[number] = answer
            self._changed.set()

        self.calls.append(self.link.send(request, on_reply))

    async def all_answers(self) -> list[Outcome | EnSyncError]:
        await self.until(lambda: len(self.answers) == len(self.calls))
        return [self.answers[number] for number in range(len(self.calls))]

    async def subscribe(self, event_name: str) -> None:
        """Subscribes, unless it has: again would have everything in hand come again."""
        if event_name not in self.subscribed:
            self.subscribed.add(event_name)
            await self.door.side.run(self.link.subscribe, event_name, self._delivered, print)

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(25):
            while not is_so():
                self._changed = anyio.Event()
                await self._changed.wait()

    def _delivered(self, delivery: Delivery) -> None:
        assert delivery.idem not in self.deliveries, "delivered twice"
        self.deliveries[delivery.idem] = delivery
        self.on_delivery(delivery)
        self._changed.set()


@asynccontextmanager
async def our_client(
    door: OpenDoor, compression: Literal["deflate"] | None = None
) -> AsyncIterator[Client]:
    transport = WebSocketTransport(
        parse_address(door.url("")),
        door.side,
        tls=None,
        connect_timeout=5,
        compression=compression,
    )
    link = await door.side.run(transport.open_link, print)
    try:
        await door.side.run(link.authenticate, door.app.app_key)
        yield Client(door, link)
    finally:
        with anyio.CancelScope(shield=True):
            await door.side.run(link.aclose)


def _is_refusable(text: str) -> bool:
    return (
        ";" in text
        or text.strip() != text
        or any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=40, phases=WITHOUT_SHRINKING)
@given(st.lists(st.tuples(TRICKY, METADATA), min_size=1, max_size=20))
@example([("n", {"m": "=:\n\0é" * (MEBIBYTE // 8)}), ("n", {";": ";" * (MEBIBYTE // 2)})])
@example([("x" * MEBIBYTE, {}), ("n", {}), ("n;EVENT_NAME=:other", {})])
def test_publishes_arrive_as_they_were(
    backend: str, events: list[tuple[str, dict[str, Any]]]
) -> None:
    anyio.run(_publish_and_compare, events, backend=backend)


async def _publish_and_compare(events: list[tuple[str, dict[str, Any]]]) -> None:
    async with open_door() as door, our_client(door) as client:
        for number, (name, metadata) in enumerate(events):
            text = json.dumps({**metadata, "number": number}, ensure_ascii=number % 2 == 0)
            payload = b64encode(str(number).encode()).decode()
            client.send(Publish(name, door.app.app_id, payload, text, '{"byte_size": 1}'))
        for number, answer in enumerate(await client.all_answers()):
            name, metadata = events[number]
            if isinstance(answer, Outcome) and answer.success:
                await _check_arrived(client, answer.idem, number, name, metadata)
            else:
                assert isinstance(answer, Outcome | EnSyncValidationError)
                assert not name or len(name) > 500 or _is_refusable(name)


async def _check_arrived(
    client: Client, idem: str, number: int, name: str, metadata: dict[str, Any]
) -> None:
    door = client.door
    kept = await door.broker.store.browse(QueueKey(door.app.app_id, name))
    (stored,) = (found.stored for found in kept if found.stored.idem == idem)
    assert json.loads(stored.event.metadata) == {**metadata, "number": number}
    assert stored.event.payload == b64encode(str(number).encode()).decode()
    await client.subscribe(name)
    await client.until(lambda: idem in client.deliveries)
    delivery = client.deliveries[idem]
    assert (delivery.event_name, delivery.block) == (name, stored.block)
    assert json.loads(delivery.metadata) == {**metadata, "number": number}
    assert delivery.payload == stored.event.payload


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=40, phases=WITHOUT_SHRINKING)
@given(st.lists(TRICKY, min_size=1, max_size=20))
@example(["x" * MEBIBYTE, "x;EVENT_NAME=:other", "=:", "fine"])
def test_no_text_makes_a_request_into_another(backend: str, texts: list[str]) -> None:
    anyio.run(_control_and_compare, texts, backend=backend)


async def _control_and_compare(texts: list[str]) -> None:
    async with open_door() as door, our_client(door) as client:
        await client.subscribe("n")
        await client.subscribe("other")
        for text in texts:
            client.send(Pause("n", text))
            client.send(Discard("n", "no-such-event", text))
            client.send(Defer("n", "no-such-event", 1000, text))
            client.send(Acknowledge("n", text, 1))
            client.send(Replay("n", text))
        answers = await client.all_answers()
        for start, text in zip(range(0, len(answers), 5), texts, strict=True):
            pause, *others = answers[start : start + 5]
            is_fine = len(text) < 4000 and not _is_refusable(text)
            assert (isinstance(pause, Outcome) and pause.success) == is_fine
            assert not any(isinstance(other, Outcome) and other.success for other in others)
        done = door.broker.statistics()
        assert done.acknowledged == done.discarded == done.deferred == 0


@pytest.mark.anyio
async def test_the_largest_payload_goes_both_ways() -> None:
    payload = b64encode(b"x" * (MAX_PAYLOAD_BYTES // 4 * 3)).decode()
    async with open_door() as door, our_client(door) as client:
        await client.subscribe("n")
        client.send(Publish("n", door.app.app_id, payload, "{}", None))
        client.send(Publish("n", door.app.app_id, payload + "AAAA", "{}", None))
        accepted, refused = await client.all_answers()
        assert isinstance(accepted, Outcome)
        assert accepted.success
        assert isinstance(refused, Outcome)
        assert "too large" in refused.message
        await client.until(lambda: accepted.idem in client.deliveries)
        assert client.deliveries[accepted.idem].payload == payload


@pytest.mark.anyio
async def test_a_client_may_offer_compression_which_the_door_never_takes() -> None:
    async with open_door() as door, our_client(door, "deflate") as client:
        client.send(Publish("n", door.app.app_id, b64encode(b"x" * MEBIBYTE).decode(), "{}", None))
        (accepted,) = await client.all_answers()
        (connection,) = door.door.connections
        response = connection._socket.response
    assert isinstance(accepted, Outcome)
    assert accepted.success
    assert response is not None
    assert "Sec-WebSocket-Extensions" not in response.headers


@pytest.mark.anyio
async def test_many_events_come_once_each_and_are_acknowledged() -> None:
    async with open_door() as door, our_client(door) as client:

        def acknowledge(delivery: Delivery) -> None:
            client.send(Acknowledge("n", delivery.idem, delivery.block))

        client.on_delivery = acknowledge
        await client.subscribe("n")
        for number in range(MANY):
            client.send(Publish("n", door.app.app_id, "QUFB", f'{{"n":{number}}}', None))
        await client.until(lambda: len(client.answers) == 2 * MANY)
        answers = await client.all_answers()
        statistics = door.broker.statistics()
    assert all(isinstance(answer, Outcome) and answer.success for answer in answers)
    published = [answer.idem for answer in answers if isinstance(answer, Outcome) and answer.idem]
    assert published == list(client.deliveries)
    assert (statistics.acknowledged, statistics.in_hand) == (MANY, 0)
