"""No app reaches into another one, by any method of either door.

The tables name every method and every command: a new one fails until it has its row.
"""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import betterproto2
import pytest

import ensync.proto.ensync as messages
from ensync.server.apps import App
from ensync.server.broker import Broker
from ensync.server.publication import Publication
from ensync.server.store import Found, QueueCounts, QueueKey
from ensync.websocket_text import Command
from tests.unit.server.brokers import NAME, envelope, take, text_of
from tests.unit.server.grpc_client import Conversation, RawClient, conversation, receive
from tests.unit.server.websocket_door import RawClient as RawWebSocket
from tests.unit.server.websocket_door import open_door

pytestmark = pytest.mark.anyio

PROTO = Path(__file__).parents[3] / "proto" / "ensync.proto"
UNKNOWN = "0123456789abcdef0123456789abcdef"
WAITING = "orders/waiting"
AN_HOUR = 3_600_000


class About(enum.Enum):
    """What a method is about, and so what is tried with it."""

    EVENT = "an event, which is named by its id"
    SUBSCRIPTION = "a subscription of the client that asks"
    DELIVERY = "the events that come"
    CLIENT = "the client itself"
    PUBLISHING = "a new event"


METHODS = {
    "Connect": About.CLIENT,
    "Heartbeat": About.CLIENT,
    "Subscribe": About.DELIVERY,
    "Unsubscribe": About.SUBSCRIPTION,
    "PublishEvent": About.PUBLISHING,
    "PublishMessage": About.PUBLISHING,
    "AcknowledgeEvent": About.EVENT,
    "AcknowledgeMessage": About.EVENT,
    "DeferEvent": About.EVENT,
    "DeferMessage": About.EVENT,
    "DiscardEvent": About.EVENT,
    "DiscardMessage": About.EVENT,
    "ReplayEvent": About.EVENT,
    "ReplayMessage": About.EVENT,
    "PauseEvents": About.SUBSCRIPTION,
    "PauseMessages": About.SUBSCRIPTION,
    "ContinueEvents": About.SUBSCRIPTION,
    "ContinueMessages": About.SUBSCRIPTION,
}

# Each command with the fields that it takes besides the client's id.
COMMANDS: Mapping[Command, tuple[About, str]] = {
    Command.CONNECT: (About.CLIENT, ""),
    Command.PUBLISH: (About.PUBLISHING, "EVENT_NAME PAYLOAD DELIVERY_TO METADATA"),
    Command.SUBSCRIBE: (About.DELIVERY, "EVENT_NAME"),
    Command.UNSUBSCRIBE: (About.SUBSCRIPTION, "EVENT_NAME"),
    Command.ACKNOWLEDGE: (About.EVENT, "EVENT_IDEM BLOCK EVENT_NAME"),
    Command.ROLLBACK: (About.EVENT, "EVENT_IDEM BLOCK"),
    Command.DEFER: (About.EVENT, "EVENT_IDEM EVENT_NAME DELAY"),
    Command.DISCARD: (About.EVENT, "EVENT_IDEM EVENT_NAME"),
    Command.PAUSE: (About.SUBSCRIPTION, "EVENT_NAME"),
    Command.CONTINUE: (About.SUBSCRIPTION, "EVENT_NAME"),
    Command.REPLAY: (About.EVENT, "EVENT_IDEM EVENT_NAME"),
}


class Target(NamedTuple):
    """An event, as one who knows everything about it would name it."""

    idem: str
    block: int
    event_name: str


class Victim:
    """An app with an event in every state, a subscription, and a client that holds on to both."""

    def __init__(self, broker: Broker, app: App) -> None:
        self.app = app
        self._broker = broker
        self._client_id = broker.connect(app.app_key, "the victim's connection").client_id
        self.targets: list[Target] = []

    async def prepare(self) -> None:
        self._consumer = await self._broker.subscribe(self._client_id, NAME)
        for text in ("settled", "deferred", "in hand"):
            await self._publish(text, NAME)
        await self._publish("waiting", WAITING)
        settled, deferred, self._held = await take(self._consumer, 3)
        await self._broker.ack(self._client_id, settled.idem, settled.block)
        await self._broker.defer(self._client_id, deferred.idem, AN_HOUR)
        self._before = await self._state()
        self.targets = [
            Target(found.stored.idem, found.stored.block, found.stored.event.queue.event_name)
            for found in (*self._before[0], *self._before[1])
        ]
        assert len(self.targets) == 4

    async def check_unharmed(self) -> None:
        """Everything is as it was, and goes on."""
        assert await self._state() == self._before
        await self._publish("next", NAME)
        [following] = await take(self._consumer, 1)
        assert text_of(following) == "next"
        await self._broker.ack(self._client_id, self._held.idem, self._held.block)

    async def _publish(self, text: str, event_name: str) -> None:
        publication = Publication(event_name, envelope(text), self.app.app_id)
        await self._broker.publish(self._client_id, publication)

    async def _state(self) -> tuple[list[Found], list[Found], list[QueueCounts], int]:
        store = self._broker.store
        events = [await store.browse(QueueKey(self.app.app_id, name)) for name in (NAME, WAITING)]
        counts = [each for each in await store.count_queues() if each.queue[0] == self.app.app_id]
        assert [(each.waiting, each.leased, each.deferred) for each in counts] == [
            (0, 1, 1),
            (1, 0, 0),
        ]
        return *events, counts, self._broker.statistics().replayed  # type: ignore[return-value]


async def prepared_victim(broker: Broker, app: App) -> Victim:
    victim = Victim(broker, app)
    await victim.prepare()
    return victim


def check_says_nothing(refusals: Mapping[Target, str], about_unknown: str) -> None:
    """Another app's event can't be told from one that never was."""
    assert "unknown event" in about_unknown
    for target, text in refusals.items():
        assert text.replace(target.idem, UNKNOWN) == about_unknown


# gRPC


class Rpc(NamedTuple):
    name: str
    request: type[Any]
    reply: type[Any]


RPCS = {
    name: Rpc(name, getattr(messages, request), getattr(messages, reply))
    for name, request, reply in re.findall(
        r"rpc (\w+)\s*\((\w+)\)\s*returns\s*\((?:stream )?(\w+)\)", PROTO.read_text()
    )
}


def about(kind: About) -> list[str]:
    return [name for name, its_kind in METHODS.items() if its_kind is kind]


def test_every_method_has_its_row() -> None:
    assert set(METHODS) == set(RPCS)
    assert PROTO.read_text().count("rpc ") == len(RPCS)


def request_of(rpc: Rpc, client_id: str, target: Target, event_name: str) -> betterproto2.Message:
    values: dict[str, Any] = {
        "client_id": client_id,
        "event_idem": target.idem,
        "event_name": event_name,
        "partition_block": target.block,
        "delay_ms": 0,
        "priority": 0,
        "reason": "mine now",
    }
    named = {field.name: values[field.name] for field in fields(rpc.request)}
    request: betterproto2.Message = rpc.request(**named)
    return request


async def meet(talk: Conversation) -> tuple[Victim, RawClient]:
    victim = await prepared_victim(talk.engine.broker, talk.app)
    return victim, await talk.client(talk.engine.create_app("intruder"))


async def refused(client: RawClient, rpc: Rpc, request: betterproto2.Message) -> str:
    reply: Any = await client.call(rpc.name, request, rpc.reply)
    assert reply == rpc.reply(success=False, message=reply.message), "it says more than no"
    text: str = reply.message
    return text


@pytest.mark.parametrize("method", about(About.EVENT))
@conversation()
async def test_grpc_events(talk: Conversation, method: str) -> None:
    victim, intruder = await meet(talk)
    rpc = RPCS[method]
    unknown = Target(UNKNOWN, 0, NAME)
    about_unknown = await refused(
        intruder, rpc, request_of(rpc, intruder.client_id, unknown, unknown.event_name)
    )
    for with_name in (True, False):
        refusals = {
            target: await refused(
                intruder,
                rpc,
                request_of(rpc, intruder.client_id, target, target.event_name if with_name else ""),
            )
            for target in victim.targets
        }
        check_says_nothing(refusals, about_unknown)
    await victim.check_unharmed()


@pytest.mark.parametrize("method", about(About.SUBSCRIPTION))
@conversation()
async def test_grpc_subscriptions(talk: Conversation, method: str) -> None:
    victim, intruder = await meet(talk)
    rpc = RPCS[method]
    request = request_of(rpc, intruder.client_id, victim.targets[0], NAME)
    assert "not subscribed" in await refused(intruder, rpc, request)
    async with intruder.subscribed(NAME):
        reply: Any = await intruder.call(method, request, rpc.reply)
        assert reply.success  # of its own
        await victim.check_unharmed()


@pytest.mark.parametrize("method", about(About.DELIVERY))
@pytest.mark.parametrize("multiplex", [False, True])
async def test_grpc_deliveries(method: str, multiplex: bool) -> None:
    assert method == "Subscribe"

    @conversation(multiplex=multiplex)
    async def test(talk: Conversation) -> None:
        victim, intruder = await meet(talk)
        async with intruder.subscribed(NAME) as stream, intruder.subscribing(WAITING) as other:
            for name, its_stream in ((NAME, stream), (WAITING, stream if multiplex else other)):
                await intruder.publish("its own", name=name)
                event = await receive(its_stream)
                assert event.payload == envelope("its own"), "an event of another app's came first"
            await victim.check_unharmed()

    await test()


@pytest.mark.parametrize("method", about(About.PUBLISHING))
@conversation()
async def test_grpc_publishing(talk: Conversation, method: str) -> None:
    victim, intruder = await meet(talk)
    request = messages.PublishEventRequest(
        client_id=intruder.client_id,
        event_name=NAME,
        payload=envelope("forged"),
        delivery_to=intruder.app.app_id,
        metadata=f'{{"sender": "{victim.app.app_id}"}}',
    )
    async with intruder.subscribed(NAME) as stream:
        assert (await intruder.call(method, request, messages.PublishEventResponse)).success
        assert (await receive(stream)).sender == intruder.app.app_id
    await victim.check_unharmed()


@pytest.mark.parametrize("method", about(About.CLIENT))
@conversation()
async def test_grpc_clients(talk: Conversation, method: str) -> None:
    victim, intruder = await meet(talk)
    # What others know of an app is its id: it opens nothing.
    request = RPCS[method].request(victim.app.app_id)
    reply: Any = await intruder.call(method, request, RPCS[method].reply)
    assert not reply.success
    assert talk.app.app_key not in str(reply)
    await victim.check_unharmed()


# WebSocket


def commands_about(kind: About) -> list[Command]:
    return [command for command, (its_kind, _) in COMMANDS.items() if its_kind is kind]


def test_every_command_has_its_row() -> None:
    assert set(COMMANDS) == set(Command)


def text_of_command(client: RawWebSocket, command: Command, target: Target) -> str:
    values = {
        "EVENT_IDEM": target.idem,
        "BLOCK": target.block,
        "EVENT_NAME": target.event_name,
        "DELAY": 0,
        "PAYLOAD": envelope("forged"),
        "DELIVERY_TO": client.app.app_id,
        "METADATA": "{}",
    }
    names = COMMANDS[command][1].split()
    return client.text(command, **{name: values[name] for name in names})


@asynccontextmanager
async def meet_at_websocket() -> AsyncIterator[tuple[Victim, RawWebSocket]]:
    async with open_door() as door, door.client(door.apps.create("intruder")) as intruder:
        yield await prepared_victim(door.broker, door.app), intruder


async def refused_by_websocket(client: RawWebSocket, text: str) -> str:
    reply = await client.ask(text)
    assert reply.startswith("-FAIL:"), reply
    return reply


@pytest.mark.parametrize("command", commands_about(About.EVENT))
async def test_websocket_events(command: Command) -> None:
    async with meet_at_websocket() as (victim, intruder):
        unknown = text_of_command(intruder, command, Target(UNKNOWN, 0, NAME))
        about_unknown = await refused_by_websocket(intruder, unknown)
        refusals = {
            target: await refused_by_websocket(intruder, text_of_command(intruder, command, target))
            for target in victim.targets
        }
        check_says_nothing(refusals, about_unknown)
        await victim.check_unharmed()


@pytest.mark.parametrize("command", commands_about(About.SUBSCRIPTION))
async def test_websocket_subscriptions(command: Command) -> None:
    async with meet_at_websocket() as (victim, intruder):
        text = text_of_command(intruder, command, victim.targets[0])
        assert "not subscribed" in await refused_by_websocket(intruder, text)
        await intruder.command("SUB", EVENT_NAME=NAME)
        assert (await intruder.ask(text)).startswith("+PASS:")  # of its own
        await victim.check_unharmed()


@pytest.mark.parametrize("command", commands_about(About.DELIVERY))
async def test_websocket_deliveries(command: Command) -> None:
    async with meet_at_websocket() as (victim, intruder):
        for name in (NAME, WAITING):
            await intruder.command(command, EVENT_NAME=name)
            await intruder.publish(EVENT_NAME=name)
            record = await intruder.record()
            assert record["sender"] == intruder.app.app_id, "an event of another app's came first"
        await victim.check_unharmed()


@pytest.mark.parametrize("command", commands_about(About.PUBLISHING))
async def test_websocket_publishing(command: Command) -> None:
    async with meet_at_websocket() as (victim, intruder):
        await intruder.command("SUB", EVENT_NAME=NAME)
        reply = await intruder.ask(text_of_command(intruder, command, victim.targets[0]))
        assert reply.startswith("+PASS:")
        assert (await intruder.record())["sender"] == intruder.app.app_id
        await victim.check_unharmed()


@pytest.mark.parametrize("command", commands_about(About.CLIENT))
async def test_websocket_clients(command: Command) -> None:
    async with meet_at_websocket() as (victim, intruder):
        reply = await refused_by_websocket(intruder, f"{command};ACCESS_KEY=:{victim.app.app_id}")
        assert reply == "-FAIL:unknown app key"
        await victim.check_unharmed()


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command is not Command.CONNECT]
)
async def test_websocket_takes_no_client_id_of_another_connection(command: Command) -> None:
    async with (
        open_door() as door,
        door.client(door.app) as owner,
        door.client(door.apps.create("intruder")) as intruder,
    ):
        victim = await prepared_victim(door.broker, door.app)
        intruder.client_id = owner.client_id
        text = text_of_command(intruder, command, victim.targets[-1])
        assert "unknown client_id" in await refused_by_websocket(intruder, text)
        await victim.check_unharmed()
