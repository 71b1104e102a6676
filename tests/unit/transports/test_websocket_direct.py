"""Messages are told as they are read, in their order, and leave together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request
from websockets.server import ServerProtocol

from ensync.errors import EnSyncConnectionError
from ensync.transports import websocket
from ensync.transports.base import Acknowledge, Outcome
from ensync.transports.websocket_direct import DirectConnection, Message
from tests.unit.transports.scripted_engine import (
    Answers,
    ScriptedEngine,
    TestedLink,
    scripted_engine,
)

pytestmark = pytest.mark.anyio


def record(idem: str) -> str:
    return "+RECORD:" + json.dumps({"name": "n", "idem": idem})


def echo(request: str) -> list[str]:
    """Answers an acknowledgement with the id that it names."""
    if request.startswith("CONN"):
        return Answers()(request)
    return ["+PASS:" + request.split("EVENT_IDEM=:")[1].split(";", maxsplit=1)[0]]


def acknowledge(number: int) -> Acknowledge:
    return Acknowledge("n", f"id-{number}", 1)


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What was not told at once."""
    messages: list[Message] = []
    take = DirectConnection.queued_message

    async def take_and_note(connection: DirectConnection) -> Message:
        message = await take(connection)
        messages.append(message)
        return message

    monkeypatch.setattr(DirectConnection, "queued_message", take_and_note)
    return messages


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was written at a time."""
    written: list[list[str]] = []
    write = DirectConnection.write

    def write_and_note(connection: DirectConnection, messages: Iterable[str]) -> None:
        written.append(list(messages))
        write(connection, messages)

    monkeypatch.setattr(DirectConnection, "write", write_and_note)
    return written


@asynccontextmanager
async def subscribed() -> AsyncIterator[tuple[ScriptedEngine, TestedLink]]:
    async with scripted_engine(Answers(["+PASS:"])) as engine, engine.link() as tested:
        await tested.authenticate()
        await tested.subscribe("n")
        yield engine, tested


async def test_no_message_takes_a_way_around(queued: list[Message]) -> None:
    # Should the library no longer call what is overridden, all of them would, and still come.
    async with scripted_engine(echo) as engine, engine.link() as tested:
        await tested.authenticate()
        for number in range(10):
            assert await tested.ask(acknowledge(number)) == Outcome(True, f"id-{number}")
    assert queued == []


async def test_messages_that_the_library_keeps_to_itself_come_all_the_same(
    queued: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DirectConnection, "process_event", ClientConnection.process_event)
    async with scripted_engine(echo) as engine, engine.link() as tested:
        await tested.authenticate()
        for number in range(10):
            assert await tested.ask(acknowledge(number)) == Outcome(True, f"id-{number}")
    assert len(queued) == 11


async def test_a_message_in_pieces_keeps_its_place(queued: list[Message]) -> None:
    async def say(connection: ServerConnection) -> None:
        await connection.send(record("1"))
        await connection.send([record("2")[:20], record("2")[20:]])
        await connection.send(record("3"))
        await connection.send([record("4")[:5], record("4")[5:-3], record("4")[-3:]])
        await connection.send(record("5"))

    async with subscribed() as (engine, tested):
        await engine.run(say)
        await tested.until(lambda: len(tested.deliveries) == 5)
        assert [delivery.idem for delivery in tested.deliveries] == ["1", "2", "3", "4", "5"]
        await engine.say(record("6"))
        await tested.until(lambda: len(tested.deliveries) == 6)
    assert record("2") in queued
    assert record("4") in queued
    assert record("1") not in queued
    assert record("6") not in queued


async def test_nothing_overtakes_a_piece_of_a_message() -> None:
    pieces = [record("1")[:20].encode(), record("1")[20:].encode()]

    async def say_a_piece(connection: ServerConnection) -> None:
        connection.protocol.send_text(pieces[0], fin=False)
        connection.send_data()

    async def say_the_rest_and_more(connection: ServerConnection) -> None:
        connection.protocol.send_continuation(pieces[1], fin=True)
        connection.protocol.send_text(record("2").encode())
        connection.send_data()

    async with subscribed() as (engine, tested):
        await engine.run(say_a_piece)
        await anyio.wait_all_tasks_blocked()
        await engine.run(say_the_rest_and_more)
        await tested.until(lambda: len(tested.deliveries) == 2)
    assert [delivery.idem for delivery in tested.deliveries] == ["1", "2"]


async def test_text_that_is_none_ends_the_link() -> None:
    async def say(connection: ServerConnection) -> None:
        connection.protocol.send_text(b"+PASS:\xff")
        connection.send_data()

    async with subscribed() as (engine, tested):
        await engine.run(say)
        lost = await tested.until_lost()
    assert lost.code == "protocol_error"
    assert "1007" in str(lost)


async def test_what_is_asked_in_one_turn_leaves_together(writes: list[list[str]]) -> None:
    async with scripted_engine(echo) as engine, engine.link() as tested:
        await tested.authenticate()
        del writes[:]
        for number in range(100):
            tested.send(number, acknowledge(number))
        await tested.until(lambda: len(tested.replies) == 100)
    assert [len(write) for write in writes] == [1, 99]
    assert list(tested.replies.values()) == [Outcome(True, f"id-{n}") for n in range(100)]


async def test_no_more_is_written_than_is_worth_it(writes: list[list[str]]) -> None:
    async with scripted_engine(echo) as engine, engine.link() as tested:
        await tested.authenticate()
        del writes[:]
        for number in range(10):
            tested.send(number, Acknowledge("n", f"{number}-" + "i" * 40_000, 1))
        await tested.until(lambda: len(tested.replies) == 10)
    assert max(len(write) for write in writes) == 2
    assert sum(len(write) for write in writes) == 10


async def test_a_fault_in_writing_ends_the_link(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_connection: DirectConnection, _messages: Iterable[str]) -> None:
        raise LookupError("injected")

    async with scripted_engine(echo) as engine, engine.link() as tested:
        await tested.authenticate()
        monkeypatch.setattr(DirectConnection, "write", fail)
        answer = await tested.ask(acknowledge(1))
        assert isinstance(answer, EnSyncConnectionError)
        assert answer.code == "internal_error"
        assert tested.lost == [answer]
    assert "injected" in caplog.text


async def test_an_engine_that_says_it_closes_and_does_not_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT", 0.05)
    async with (
        _engine_that_stays(b"\x88\x02\x03\xf4") as port,
        scripted_engine(echo) as engine,
        engine.link(f"ws://127.0.0.1:{port}") as tested,
    ):
        answer = await tested.ask(acknowledge(1))
        assert isinstance(answer, EnSyncConnectionError)
        assert answer.code == "link_lost"
        assert "1012" in str(answer)
        assert tested.lost == [answer]


@asynccontextmanager
async def _engine_that_stays(says: bytes) -> AsyncIterator[int]:
    """A server that answers the first message with these bytes, and never closes."""

    async def handle(stream: SocketStream) -> None:
        protocol = ServerProtocol()
        async with stream:
            protocol.receive_data(await stream.receive())
            (request,) = protocol.events_received()
            assert isinstance(request, Request)
            protocol.send_response(protocol.accept(request))
            await stream.send(b"".join(protocol.data_to_send()))
            await stream.receive()
            await stream.send(says)
            await anyio.sleep_forever()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()
