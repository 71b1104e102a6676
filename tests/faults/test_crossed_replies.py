"""Replies that carry no id, and that come too late, twice, out of turn, or not at all.

Whatever a user is told about an event must be true of that event: what was accepted is
stored under its id, what was rejected is not stored, and the rest is unknown.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import ensync
from ensync.scopes import background_tasks
from ensync.server.local import LocalEngine
from ensync.server.store import QueueKey
from ensync.transports.base import (
    Acknowledge,
    Defer,
    Discard,
    Outcome,
    Pause,
    Publish,
    Replay,
    Request,
)
from ensync.transports.bridge import open_asyncio_side
from tests.conformance.harness import Keys, Target, opened
from tests.unit.transports.scripted_engine import Answers, scripted_engine

EVENTS = 12
FAULTY = 5  # the reply that something is done to; the one to CONN is number 0
NAME = "orders/paid"
HASTE = ensync.Reconnect(initial=0.001, maximum=0.01, max_attempts=None)
SOON = 0.5  # seconds, of a request that is to wait in vain
LONG = 20.0

Meddle = Callable[[int, str], "list[str]"]
"""From the number and the text of a reply to what is passed on instead."""


# A go-between


@dataclass
class GoBetween:
    """Stands between clients and their engine, and meddles with the first client's replies."""

    engine_url: str
    meddle: Meddle
    port: int = 0
    connections: int = 0

    async def serve(self, client: ServerConnection) -> None:
        self.connections += 1
        meddle = self.meddle if self.connections == 1 else passed_on
        async with self._to_engine() as engine, background_tasks() as tasks:
            tasks.start_soon(_forward, client, engine)
            await _forward_replies(engine, client, meddle)

    def _to_engine(self) -> connect:
        return connect(f"{self.engine_url}/message", proxy=None, compression=None, max_size=None)


async def _forward(source: Connection, sink: Connection) -> None:
    try:
        async for text in source:
            await sink.send(text)
        await sink.close()
    except ConnectionClosed:
        await sink.close()


async def _forward_replies(engine: ClientConnection, client: Connection, meddle: Meddle) -> None:
    number = 0
    try:
        async for text in engine:
            assert isinstance(text, str)
            texts = [text]
            if not text.startswith("+RECORD:"):
                texts, number = meddle(number, text), number + 1
            for passed in texts:
                await client.send(passed)
    except ConnectionClosed:
        return


@asynccontextmanager
async def go_between(engine: LocalEngine, meddle: Meddle) -> AsyncIterator[GoBetween]:
    between = GoBetween(engine.websocket_url, meddle)

    async def start() -> Server:
        return await serve(
            between.serve, "127.0.0.1", 0, compression=None, close_timeout=1, max_size=None
        )

    async def stop() -> None:
        server.close()
        await server.wait_closed()

    async with open_asyncio_side() as side:
        server = await side.run(start)
        between.port = next(iter(server.sockets)).getsockname()[1]
        try:
            yield between
        finally:
            with anyio.CancelScope(shield=True):
                await side.run(stop)


def passed_on(_: int, text: str) -> list[str]:
    return [text]


def lost(number: int, text: str) -> list[str]:
    return [] if number == FAULTY else [text]


@dataclass
class Late:
    """From one reply on all are held back, until there is one for each of the events."""

    held: list[str] = field(default_factory=list[str])

    def __call__(self, number: int, text: str) -> list[str]:
        self.held.append(text)
        if FAULTY <= number < EVENTS:
            return []
        texts, self.held = self.held, []
        return texts


@dataclass
class Doubled:
    """A good reply comes twice. A refusal names no event, and might be the next one's too."""

    to_come: bool = True

    def __call__(self, number: int, text: str) -> list[str]:
        if number < FAULTY or not self.to_come or not text.startswith("+PASS:"):
            return [text]
        self.to_come = False
        return [text, text]


@dataclass
class Reordered:
    """One reply comes after the next one."""

    held: list[str] = field(default_factory=list[str])

    def __call__(self, number: int, text: str) -> list[str]:
        if number == FAULTY:
            self.held.append(text)
            return []
        texts = [text, *self.held]
        self.held.clear()
        return texts


FAULTS: dict[str, Callable[[], Meddle]] = {
    "lost": lambda: lost,
    "late": Late,
    "doubled": Doubled,
    "reordered": Reordered,
}


# What users are told


@dataclass
class Told:
    """What was said about each event, by its number."""

    accepted: dict[int, str] = field(default_factory=dict[int, str])
    rejected: set[int] = field(default_factory=set[int])
    unknown: set[int] = field(default_factory=set[int])

    async def publish(
        self, client: ensync.EnSyncClient, number: int, timeout: float = LONG
    ) -> None:
        # Every third is one that the engine refuses.
        metadata = {"number": number} | ({"ttl": -1} if number % 3 == 0 else {})
        try:
            receipt = await client.publish(NAME, [client.app_id], number, metadata, timeout=timeout)
        except ensync.EnSyncPublishError as error:
            (self.unknown if error.unknown else self.rejected).add(number)
        else:
            self.accepted[number] = receipt.event_id

    async def check(self, engine: LocalEngine, app_id: str) -> None:
        """All that was said is true."""
        kept = await engine.broker.store.browse(QueueKey(app_id, NAME))
        stored = {_number(found.stored.event.metadata): found.stored.idem for found in kept}
        assert self.accepted.items() <= stored.items()
        assert not self.rejected & stored.keys()
        assert stored.keys() <= self.accepted.keys() | self.unknown
        assert all(number % 3 == 0 for number in self.rejected)


def _number(metadata: str) -> int:
    number: int = json.loads(metadata)["number"]
    return number


@asynccontextmanager
async def client_through(
    engine: LocalEngine, keys: Keys, meddle: Meddle, request_timeout: float = LONG
) -> AsyncIterator[tuple[ensync.EnSyncClient, GoBetween]]:
    async with go_between(engine, meddle) as between:
        target = Target(f"ws://127.0.0.1:{between.port}", keys, keys)
        async with target.connect(reconnect=HASTE, request_timeout=request_timeout) as client:
            yield client, between


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["lost", "late", "doubled"])
async def test_who_publishes_one_at_a_time_is_told_the_truth(fault: str) -> None:
    told = Told()
    async with opened("websocket") as (target, engine):
        async with client_through(engine, target.keys, FAULTS[fault]()) as (client, between):
            for number in range(1, EVENTS):
                in_vain = number == FAULTY and fault != "doubled"
                await told.publish(client, number, SOON if in_vain else LONG)
            assert between.connections == 2
        await told.check(engine, target.keys.app_id)
    # A surplus reply may meet the next request on its way, which then is unknown.
    expected = [set[int](), {FAULTY + 1}] if fault == "doubled" else [{FAULTY}]
    assert told.unknown in expected


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["late", "doubled"])
async def test_who_publishes_many_at_once_is_told_the_truth(fault: str) -> None:
    told = Told()
    async with opened("websocket") as (target, engine):
        async with client_through(engine, target.keys, FAULTS[fault]()) as (client, between):
            async with anyio.create_task_group() as tasks:
                for number in range(1, EVENTS):
                    in_time = LONG if fault == "doubled" else 4 * SOON
                    tasks.start_soon(told.publish, client, number, in_time)
            await told.publish(client, EVENTS + 1)
            assert between.connections == 2
        await told.check(engine, target.keys.app_id)
    assert EVENTS + 1 in told.accepted
    assert told.unknown


@pytest.mark.anyio
async def test_a_reply_lost_among_many_never_outlives_its_connection() -> None:
    # Nothing but their order tells replies apart, so that the loss shows when there is one
    # too few. By then those at once with it may be mixed up; nobody later ever is.
    at_once, later = Told(), Told()
    async with opened("websocket") as (target, engine):
        async with client_through(engine, target.keys, lost) as (client, between):
            async with anyio.create_task_group() as tasks:
                for number in range(1, EVENTS):
                    tasks.start_soon(at_once.publish, client, number, 4 * SOON)
            assert at_once.unknown
            for number in range(100, 100 + EVENTS):
                await later.publish(client, number)
            assert between.connections == 2
        kept = await engine.broker.store.browse(QueueKey(target.keys.app_id, NAME))
    stored = {_number(found.stored.event.metadata): found.stored.idem for found in kept}
    assert not later.unknown
    assert later.accepted.items() <= stored.items()
    assert not later.rejected & stored.keys()


@pytest.mark.anyio
@pytest.mark.parametrize("fault", FAULTS)
async def test_events_are_acknowledged_whatever_becomes_of_the_replies(fault: str) -> None:
    numbers: list[int] = []
    timeout = 4 * SOON if fault in ("lost", "late") else LONG
    async with opened("websocket") as (target, engine):
        async with target.connect() as publisher:
            for number in range(EVENTS):
                await publisher.publish(NAME, [publisher.app_id], number)
        async with (
            client_through(engine, target.keys, FAULTS[fault](), timeout) as (client, _),
            client.subscribe(NAME) as subscription,
        ):
            async for event in subscription:
                numbers.append(event.payload)
                if len(numbers) == EVENTS:
                    break
        statistics = engine.statistics()
        kept = await engine.broker.store.browse(QueueKey(target.keys.app_id, NAME))
    assert numbers == list(range(EVENTS))
    assert subscription.statistics().unconfirmed == 0
    assert (statistics.acknowledged, statistics.in_hand) == (EVENTS, 0)
    assert len(kept) == EVENTS


# The link alone, with every kind of request


def _requests(tag: int) -> list[Request]:
    return [
        Publish("n", "r", "cGF5", "{}", None),
        Acknowledge("n", "i", tag),
        Pause("n", str(tag)),
        Discard("n", "i", str(tag)),
        Defer("n", "i", 1000, str(tag)),
        Replay("n", "i"),
    ]


def _reply_to(tag: int, request: Request) -> str:
    if isinstance(request, Replay):
        return f'+REPLAY:{{"name":"n","idem":"i","payload":"{tag}"}}'
    return f"+PASS:{tag}"


def _tag_of(outcome: Outcome) -> int:
    if outcome.delivery is not None:
        return int(outcome.delivery.payload)
    return int(outcome.idem or outcome.message)


@settings(max_examples=25, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    kinds=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    answered=st.integers(0, 30),
    given_up=st.integers(0, 29),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_no_reply_is_taken_for_another_s(
    kinds: list[int], answered: int, given_up: int, backend: str
) -> None:
    requests = [_requests(tag)[kind] for tag, kind in enumerate(kinds)]
    answered = min(answered, len(requests))
    anyio.run(_give_up, requests, answered, given_up % len(requests), backend=backend)


async def _give_up(requests: list[Request], answered: int, given_up: int) -> None:
    """Some are answered; then one of all is given up; then the other replies come."""
    texts = [_reply_to(tag, request) for tag, request in enumerate(requests)]
    async with scripted_engine(Answers()) as engine, engine.link() as tested:
        await tested.authenticate()
        calls = [tested.send(number, request) for number, request in enumerate(requests)]
        await engine.until_heard(1 + len(requests))
        for text in texts[:answered]:
            await engine.say(text)
        await tested.until(lambda: len(tested.replies) == answered)
        calls[given_up].cancel()
        for text in texts[answered:]:
            with suppress(ConnectionClosed):
                await engine.say(text)
        still_waits = answered <= given_up
        if not still_waits:
            await tested.until(lambda: len(tested.replies) == len(requests))
        replies = dict(tested.replies)
    own = {number: reply for number, reply in replies.items() if isinstance(reply, Outcome)}
    assert all(_tag_of(outcome) == number for number, outcome in own.items())
    assert len(own) == (answered if still_waits else len(requests))
    assert set(replies) == set(range(len(requests))) - ({given_up} if still_waits else set())
