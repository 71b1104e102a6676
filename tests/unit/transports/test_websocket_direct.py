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

from ensync.errors import EnSyncConnectionError, EnSyncError
from ensync.transports import websocket
from ensync.transports.base import Acknowledge, Call, Outcome
from ensync.transports.bridge import open_asyncio_side
from ensync.transports.websocket_direct import DirectConnection, Message
from ensync.transports.websocket_link import WebSocketLink
from tests.unit.transports.scripted_engine import (
    Answers,
    ScriptedEngine,
    TestedLink,
    break_off,
    scripted_engine,
    stop_reading,
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


async def test_what_waits_is_written_when_the_socket_takes_more() -> None:
    silence = [list[str]() for _ in range(19)]
    answers = Answers(*silence, [f"+PASS:id-{number}" for number in range(20)])
    async with scripted_engine(answers) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.run(stop_reading)
        calls = [_acknowledge_a_megabyte(tested, number) for number in range(20)]
        await anyio.wait_all_tasks_blocked()
        assert not calls[-1].sent
        await engine.run(_read_on)
        await tested.until(lambda: len(tested.replies) == 20)
    assert tested.replies == {number: Outcome(True, f"id-{number}") for number in range(20)}


async def test_requests_go_on_when_the_last_reply_awaited_comes_in_pieces() -> None:
    async def answer_in_pieces(connection: ServerConnection) -> None:
        await connection.send(["+PA", "SS:id-0"])

    async with scripted_engine(Answers([], ["+PASS:id-1"])) as engine, engine.link() as tested:
        await tested.authenticate()
        tested.send(0, acknowledge(0))
        await engine.until_heard(2)
        tested.link.beat(tested.link.carriers[0], lambda _: None)
        held_back = tested.send(1, acknowledge(1))
        await anyio.wait_all_tasks_blocked()
        assert not held_back.sent
        await engine.run(answer_in_pieces)
        await tested.until(lambda: len(tested.replies) == 2)
    assert tested.replies == {0: Outcome(True, "id-0"), 1: Outcome(True, "id-1")}


async def test_a_text_ping_in_pieces_gets_its_pong() -> None:
    async def ping_in_pieces(connection: ServerConnection) -> None:
        await connection.send(["PI", "NG"])

    async with scripted_engine(Answers()) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.run(ping_in_pieces)
        await engine.until_heard(2)
    assert engine.received[1] == "PONG"


# Links that end in odd ways


async def test_a_connection_that_is_breaking_gets_nothing() -> None:
    async with scripted_engine(echo) as engine, engine.link() as tested:
        await tested.authenticate()
        assert isinstance(tested.link, WebSocketLink)
        tested.link._socket.transport.abort()  # as asyncio does when writing has failed
        call = tested.send(1, acknowledge(1))
        lost = await tested.until_lost()
    assert not call.sent
    assert tested.replies[1] is lost
    assert lost.code == "link_lost"


async def test_the_loss_is_told_whatever_those_do_who_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_answer: Outcome | EnSyncError) -> None:
        raise LookupError("injected")

    async with scripted_engine(echo) as engine, engine.link() as tested:
        await tested.authenticate()
        tested.link.send(acknowledge(1), fail)
        tested.link.send(acknowledge(2), fail)
        lost = await tested.until_lost()
        assert lost.code == "internal_error"
    assert "injected" in caplog.text


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closing handshake takes no time to speak of."""
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT", 0.05)


@pytest.mark.usefixtures("soon")
async def test_an_engine_that_says_it_closes_and_does_not_is_left() -> None:
    async with _closing_engine(at_once=False) as engine, engine.link() as tested:
        answer = await tested.ask(acknowledge(1))
        assert isinstance(answer, EnSyncConnectionError)
        assert answer.code == "link_lost"
        assert "1012" in str(answer)
        assert tested.lost == [answer]


@pytest.mark.usefixtures("soon")
async def test_an_engine_that_closes_with_the_handshake_is_left_and_gets_nothing() -> None:
    async with _closing_engine(at_once=True) as engine, engine.link() as tested:
        call = tested.send(1, acknowledge(1))
        lost = await tested.until_lost()
    assert not call.sent
    assert tested.replies[1] is lost
    assert lost.code == "link_lost"
    assert "1012" in str(lost)


@pytest.mark.usefixtures("soon")
async def test_an_engine_that_ends_its_half_and_reads_nothing_is_left() -> None:
    async def end_one_half(connection: ServerConnection) -> None:
        await stop_reading(connection)
        connection.transport.write_eof()

    async with scripted_engine(Answers()) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.run(stop_reading)
        calls = [_acknowledge_a_megabyte(tested, number) for number in range(20)]
        await engine.run(end_one_half)
        lost = await tested.until_lost()
        assert lost.code == "link_lost"
        assert calls[0].sent
        assert not calls[-1].sent
        assert set(tested.replies.values()) == {lost}
        await engine.run(break_off)


async def _read_on(connection: ServerConnection) -> None:
    connection.transport.resume_reading()


def _acknowledge_a_megabyte(tested: TestedLink, number: int) -> Call:
    return tested.send(number, Acknowledge("n", f"{number}-" + "i" * 1_000_000, 1))


@asynccontextmanager
async def _closing_engine(*, at_once: bool) -> AsyncIterator[ScriptedEngine]:
    """Says that it closes, with the handshake or upon the first message, and never does."""
    close = b"\x88\x02\x03\xf4"

    async def handle(stream: SocketStream) -> None:
        protocol = ServerProtocol()
        async with stream:
            protocol.receive_data(await stream.receive())
            (request,) = protocol.events_received()
            assert isinstance(request, Request)
            protocol.send_response(protocol.accept(request))
            handshake = b"".join(protocol.data_to_send())
            await stream.send(handshake + close * at_once)
            await stream.receive()
            if not at_once:
                await stream.send(close)
            await anyio.sleep_forever()

    async with (
        open_asyncio_side() as side,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handle)
        port = listener.extra(SocketAttribute.local_port)
        yield ScriptedEngine(side, port, [], [], anyio.Event())
        tasks.cancel_scope.cancel()
