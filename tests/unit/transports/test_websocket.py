"""The WebSocket transport against an engine that says what the test wants."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from websockets.asyncio.server import ServerConnection

import ensync
from ensync.address import parse_address
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncInvalidEventError,
    EnSyncSubscriptionError,
    EnSyncTimeoutError,
    EnSyncValidationError,
)
from ensync.transports.base import (
    Acknowledge,
    Call,
    Heartbeat,
    Identity,
    Outcome,
    Pause,
    Publish,
    Replay,
)
from ensync.transports.bridge import open_asyncio_side
from ensync.transports.websocket import Proxy, WebSocketTransport
from tests.unit.transports.scripted_engine import (
    Answers,
    ScriptedEngine,
    TestedLink,
    break_off,
    scripted_engine,
    stop_reading,
)

pytestmark = pytest.mark.anyio

PUBLISH = Publish("n", "r", "cGF5", "{}", None)
ACK = Acknowledge("n", "i", 1)


def record(name: str = "n", idem: str = "i", **fields: object) -> str:
    return "+RECORD:" + json.dumps({"name": name, "idem": idem, **fields})


def silent(request: str) -> list[str]:
    return Answers()(request)


def echo_names(request: str) -> list[str]:
    """Answers a publish with its event name, so that a crossed reply shows."""
    if request.startswith("CONN"):
        return silent(request)
    return ["+PASS:" + request.split("EVENT_NAME=:")[1].split(";", maxsplit=1)[0]]


async def test_a_link_authenticates_and_uses_the_client_id_it_was_given() -> None:
    async with scripted_engine(Answers(["+PASS:idem-1"])) as engine, engine.link() as tested:
        assert await tested.authenticate("key-1") == Identity("c1", "aGFzaA==", {})
        assert await tested.ask(PUBLISH) == Outcome(True, idem="idem-1")
    assert engine.received[0] == "CONN;ACCESS_KEY=:key-1"
    assert engine.received[1].startswith("PUB;CLIENT_ID=:c1;EVENT_NAME=:n;")
    assert tested.lost == []


async def test_a_refused_key_is_an_authentication_error() -> None:
    async with scripted_engine(lambda _: ["-FAIL:who are you"]) as engine, engine.link() as tested:
        with pytest.raises(EnSyncAuthenticationError, match="who are you"):
            await tested.authenticate()
    assert tested.lost == []


async def test_a_thousand_requests_are_pipelined_and_answered_in_order() -> None:
    async with scripted_engine(echo_names) as engine, engine.link() as tested:
        await tested.authenticate()
        for number in range(1000):
            tested.send(number, PUBLISH._replace(event_name=f"name-{number}"))
        await tested.until(lambda: len(tested.replies) == 1000)
    assert list(tested.replies.values()) == [
        Outcome(True, idem=f"name-{number}") for number in range(1000)
    ]


async def test_events_may_come_between_requests_and_replies() -> None:
    answers = Answers(
        [record(idem="early"), "+PASS:subscribed", record(idem="late")],
        [record(idem="between"), "+PASS:idem-1"],
        ["-FAIL:no"],
    )
    async with scripted_engine(answers) as engine, engine.link() as tested:
        await tested.authenticate()
        await tested.subscribe("n")
        assert await tested.ask(PUBLISH) == Outcome(True, idem="idem-1")
        assert await tested.ask(ACK) == Outcome(False, "no")
    assert [delivery.idem for delivery in tested.deliveries] == ["early", "late", "between"]


async def test_an_event_with_a_garbage_payload_is_handed_on() -> None:
    garbage = record(payload={"not": "base64"}, metadata="{", block="12", sender=None)
    async with scripted_engine(Answers(["+PASS:", garbage])) as engine, engine.link() as tested:
        await tested.authenticate()
        await tested.subscribe("n")
        await tested.until(lambda: bool(tested.deliveries))
    assert tested.deliveries[0].payload == '{"not":"base64"}'
    assert tested.deliveries[0].block == 12


async def test_a_refused_subscription_is_an_error_and_gets_no_events() -> None:
    answers = Answers(["-FAIL:no permission"], [record(), "+PASS:x"])
    async with scripted_engine(answers) as engine, engine.link() as tested:
        await tested.authenticate()
        with pytest.raises(EnSyncSubscriptionError, match="no permission"):
            await tested.subscribe("n")
        await tested.ask(ACK)
    assert tested.deliveries == []


async def test_events_of_a_closed_stream_are_dropped() -> None:
    answers = Answers(["+PASS:"], ["+PASS:"], [record("n"), record("other"), "+PASS:x"])
    async with scripted_engine(answers) as engine, engine.link() as tested:
        await tested.authenticate()
        stream = await tested.subscribe("n")
        await tested.subscribe("other")
        stream.close()
        await tested.ask(ACK)
    assert [delivery.event_name for delivery in tested.deliveries] == ["other"]


async def test_a_stream_can_not_be_held_alone() -> None:
    async with scripted_engine(Answers(["+PASS:"])) as engine, engine.link() as tested:
        await tested.authenticate()
        stream = await tested.subscribe("n")
        assert stream.hold() is False
        stream.release()


async def test_a_replay_is_answered_with_its_event() -> None:
    answers = Answers(
        ['+REPLAY:{"name":"n","idem":"i","block":4,"payload":"p"}'], ["+REPLAY:{"], ["-FAIL:gone"]
    )
    async with scripted_engine(answers) as engine, engine.link() as tested:
        await tested.authenticate()
        replayed = await tested.ask(Replay("n", "i"))
        assert isinstance(replayed, Outcome)
        assert replayed.delivery is not None
        assert replayed.delivery.block == 4
        assert isinstance(await tested.ask(Replay("n", "i")), EnSyncInvalidEventError)
        assert await tested.ask(Replay("n", "i")) == Outcome(False, "gone")
    assert tested.lost == []


async def test_a_text_ping_is_answered_with_pong() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.say("PING")
        await engine.until_heard(2)
    assert engine.received[1] == "PONG"


async def test_a_ping_of_the_engine_s_gets_its_pong() -> None:
    async def ping(connection: ServerConnection) -> None:
        with anyio.fail_after(10):
            await (await connection.ping())

    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.run(ping)
    assert engine.received == ["CONN;ACCESS_KEY=:key"]


async def test_a_heartbeat_is_a_ping_that_gets_its_pong() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        assert await tested.ask(Heartbeat()) == Outcome(True)
    assert engine.received == ["CONN;ACCESS_KEY=:key"]


async def test_a_heartbeat_that_is_given_up_does_no_harm() -> None:
    async with scripted_engine(echo_names) as engine, engine.link() as tested:
        await tested.authenticate()
        tested.send(1, Heartbeat()).cancel()
        assert await tested.ask(PUBLISH) == Outcome(True, idem="n")
    assert tested.lost == []


async def test_what_could_forge_a_field_is_refused_and_never_sent() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        call = tested.send(1, Pause("n", "x;EVENT_NAME=:other"))
        assert isinstance(tested.replies[1], EnSyncValidationError)
        assert not call.sent
        call.cancel()
        with pytest.raises(EnSyncValidationError):
            await tested.subscribe("n;CLIENT_ID=:other")
        with pytest.raises(EnSyncValidationError):
            await tested.authenticate("key\nkey")
    assert len(engine.received) == 1


# Whatever could shift the replies ends the link


async def test_a_sent_request_that_is_given_up_resets_the_link_and_the_rest_is_unknown() -> None:
    async with scripted_engine(Answers(["+PASS:early"])) as engine, engine.link() as tested:
        await tested.authenticate()
        calls = [tested.send(number, PUBLISH) for number in range(3)]
        await tested.until(lambda: 0 in tested.replies)
        await engine.until_heard(4)
        calls[1].cancel()
        assert [error.code for error in tested.lost] == ["link_reset"]
        assert set(tested.replies) == {0, 2}
        assert tested.replies[2] is tested.lost[0]
        assert calls[2].sent
        unsent = tested.send(3, PUBLISH)
        assert not unsent.sent
        assert tested.replies[3] is tested.lost[0]


async def test_a_cancelled_subscribe_resets_the_link() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tested.subscribe, "n")
            await engine.until_heard(2)
            tasks.cancel_scope.cancel()
        assert (await tested.until_lost()).code == "link_reset"


async def test_a_call_that_is_cancelled_before_it_is_sent_just_goes() -> None:
    async with scripted_engine(echo_names) as engine, engine.link() as tested:
        await tested.authenticate()
        tested.send(1, PUBLISH)  # at once; what comes in the same turn goes in the next
        call = tested.send(2, PUBLISH._replace(event_name="unwanted"))
        call.cancel()
        call.cancel()
        assert not call.sent
        assert await tested.ask(ACK._replace(event_name="m")) == Outcome(True, "m")
    assert tested.lost == []
    assert not any("unwanted" in text for text in engine.received)


async def test_cancelling_an_answered_call_does_nothing() -> None:
    async with scripted_engine(echo_names) as engine, engine.link() as tested:
        await tested.authenticate()
        call = tested.send(1, PUBLISH)
        await tested.until(lambda: 1 in tested.replies)
        call.cancel()
        assert tested.lost == []


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("hello", "neither a reply nor an event"),
        ("", "neither a reply nor an event"),
        ("+PASS:", "names no event"),
        ("+REPLAY:{}", r"\+REPLAY in reply to Publish"),
    ],
)
async def test_what_can_not_be_read_ends_the_link(reply: str, reason: str) -> None:
    async with scripted_engine(Answers([reply])) as engine, engine.link() as tested:
        await tested.authenticate()
        call = tested.send(1, PUBLISH)
        lost = await tested.until_lost()
        assert lost.code == "protocol_error"
        assert re.search(reason, str(lost))
        assert tested.replies[1] is lost
        assert call.sent


@pytest.mark.parametrize(
    "bad",
    [
        "+RECORD:{",
        "+RECORD:[]",
        '+RECORD:{"name":"n"}',
        '+RECORD:{"name":"n","idem":"i","block":"x"}',
        '+RECORD:{"name":"n","idem":"i","block":1' + "0" * 5000 + "}",
    ],
    ids=["no JSON", "no object", "no id", "no block", "no number"],
)
async def test_an_event_that_can_not_be_taken_costs_no_other(
    bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_engine(echo_names) as engine, engine.link() as tested:
        await tested.authenticate()
        await tested.subscribe("n")
        await engine.say(bad)
        await engine.say(record(idem="good"))
        await tested.until(lambda: bool(tested.deliveries))
        assert [delivery.idem for delivery in tested.deliveries] == ["good"]
        assert tested.lost == []
    assert "can't be taken" in caplog.text


async def test_a_reply_that_nobody_waits_for_ends_the_link() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.say("+PASS:surplus")
        assert "nobody waits for" in str(await tested.until_lost())


async def test_a_binary_message_ends_the_link() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.say(b"+PASS:binary")
        assert "binary" in str(await tested.until_lost())


async def test_a_doubled_reply_is_not_taken_for_the_next_publish_s() -> None:
    answers = Answers(["+PASS:idem-1", "+PASS:idem-1"], ["+PASS:idem-2"])
    async with scripted_engine(answers) as engine, engine.link() as tested:
        await tested.authenticate()
        tested.send(1, PUBLISH)
        second = tested.send(2, PUBLISH)
        lost = await tested.until_lost()
    assert tested.replies == {1: Outcome(True, idem="idem-1"), 2: lost}
    assert second.sent


async def test_a_reply_of_another_kind_shows_that_they_are_out_of_order() -> None:
    answers = Answers([], ['+REPLAY:{"payload":"p"}', "+PASS:idem-1"])
    async with scripted_engine(answers) as engine, engine.link() as tested:
        await tested.authenticate()
        tested.send(1, PUBLISH)
        tested.send(2, Replay("n", "i"))
        lost = await tested.until_lost()
    assert tested.replies == {1: lost, 2: lost}


async def test_a_lost_reply_is_found_by_the_next_heartbeat_at_the_latest() -> None:
    # The first reply is lost, so that each request is answered by the next one's reply. With
    # requests coming all the time, nobody would ever wait too long and notice.
    answers = Answers([], *([f"+PASS:idem-{number}"] for number in range(100)))
    async with scripted_engine(answers) as engine, engine.link() as tested:
        await tested.authenticate()
        for number in range(3):
            tested.send(number, PUBLISH)
        await tested.until(lambda: len(tested.replies) == 2)
        assert await tested.ask(Heartbeat()) == Outcome(True)
        held_back = tested.send(3, PUBLISH)
        await tested.ask(Heartbeat())
        assert 2 not in tested.replies
        assert not held_back.sent
        assert len(engine.received) == 4
        tested.link.abort(EnSyncConnectionError("no answer in time"))
        assert not held_back.sent


async def test_after_a_heartbeat_requests_go_on_when_all_are_answered() -> None:
    async with scripted_engine(echo_names) as engine, engine.link() as tested:
        await tested.authenticate()
        for number in range(100):
            tested.send(number, PUBLISH._replace(event_name=f"name-{number}"))
            if number % 7 == 0:
                tested.link.send(Heartbeat(), lambda _: None)
        await tested.until(lambda: len(tested.replies) == 100)
    assert tested.replies[99] == Outcome(True, idem="name-99")


# Every way to lose a link


async def _close_normally(connection: ServerConnection) -> None:
    await connection.close()


async def _close_with_reason(connection: ServerConnection) -> None:
    await connection.close(1012, "restarting")


async def _send_a_bad_frame(connection: ServerConnection) -> None:
    connection.transport.write(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (_close_normally, "closed it (1000"),
        (_close_with_reason, "restarting"),
        (break_off, "it broke off"),
    ],
)
async def test_an_engine_that_ends_the_connection_is_noticed(
    act: Callable[[ServerConnection], Awaitable[None]], reason: str
) -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        call = tested.send(1, PUBLISH)
        await engine.until_heard(2)
        await engine.run(act)
        lost = await tested.until_lost()
    assert lost.code == "link_lost"
    assert reason in str(lost)
    assert engine.url in str(lost)
    assert lost.__cause__ is not None
    assert tested.replies[1] is lost
    assert call.sent


async def test_a_broken_frame_ends_the_link() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.run(_send_a_bad_frame)
        lost = await tested.until_lost()
    assert lost.code == "protocol_error"


async def test_a_message_over_the_limit_ends_the_link() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.say(record(payload="A" * (7 << 20)))
        lost = await tested.until_lost()
    assert lost.code == "protocol_error"
    assert "1009" in str(lost)


async def test_abort_answers_every_call_before_it_tells_of_the_loss() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        order: list[str] = []
        error = EnSyncConnectionError("given up")
        tested.send(1, PUBLISH)
        tested.link.send(Heartbeat(), lambda _: order.append("heartbeat"))
        tested.link.send(ACK, lambda _: order.append("ack"))
        tested.lost = _Recorder(order)
        tested.link.abort(error)
        tested.link.abort(EnSyncConnectionError("again"))
        assert sorted(order[:2]) == ["ack", "heartbeat"]
        assert order[2:] == ["lost"]
        assert tested.replies[1] is error
        late = await tested.ask(Heartbeat())
        assert late is error


class _Recorder(list[EnSyncConnectionError]):
    def __init__(self, order: list[str]) -> None:
        self._order = order

    def append(self, error: EnSyncConnectionError) -> None:
        self._order.append("lost")
        super().append(error)


async def test_abort_does_not_wait_for_what_is_still_to_be_written() -> None:
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate()
        await engine.run(stop_reading)
        calls = [_publish_a_mebibyte(tested, number) for number in range(40)]
        await anyio.wait_all_tasks_blocked()
        assert not calls[-1].sent
        with anyio.fail_after(2):
            tested.link.abort(EnSyncConnectionError("given up"))
            await tested.until_lost()
        assert len(tested.replies) == 40
        assert not calls[-1].sent
        assert calls[0].sent
        await engine.run(break_off)


async def test_aclose_gives_up_on_a_dead_peer_after_a_second() -> None:
    async with scripted_engine(silent) as engine:
        async with engine.link() as tested:
            await tested.authenticate()
            await engine.run(stop_reading)
            for number in range(40):
                _publish_a_mebibyte(tested, number)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(5):
                await tested.side.run(tested.link.aclose)
        assert tested.lost == []
        assert len(tested.replies) == 40
        await engine.run(break_off)


def _publish_a_mebibyte(tested: TestedLink, number: int) -> Call:
    return tested.send(number, PUBLISH._replace(payload="A" * (1 << 20)))


async def test_closing_is_no_loss() -> None:
    async with scripted_engine(silent) as engine:
        async with engine.link() as tested:
            await tested.authenticate()
            tested.send(1, PUBLISH)
        error = tested.replies[1]
        assert isinstance(error, EnSyncConnectionError)
        assert error.code == "closed"
        assert tested.lost == []


# Connecting


async def _failure(url: str, connect_timeout: float = 5.0) -> EnSyncConnectionError:
    """Why no link can be opened."""
    async with open_asyncio_side() as side:
        transport = WebSocketTransport(
            parse_address(url), side, tls=None, connect_timeout=connect_timeout
        )
        with pytest.raises(EnSyncConnectionError) as caught:
            await side.run(transport.open_link, print)
    return caught.value


async def test_nobody_there() -> None:
    async with scripted_engine(silent) as engine:
        url = engine.url
    error = await _failure(url)
    assert error.code == "connect_failed"
    assert f"no connection to {url}" in str(error)
    assert isinstance(error.__cause__, OSError)


@pytest.mark.usefixtures("no_name_servers")
async def test_a_host_name_that_does_not_exist() -> None:
    error = await _failure("ws://nowhere.invalid")
    assert error.code == "unknown_host"
    assert "'nowhere.invalid' can't be resolved" in str(error)


@asynccontextmanager
async def _server_saying(answer: bytes | None) -> AsyncIterator[int]:
    """A TCP server that waits for the first bytes, and says something; None: never."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            if answer is None:
                await anyio.sleep_forever()
            else:
                await stream.send(answer)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP status 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP status 200"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "HTTP status 302",
        ),
        (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", r"gRPC \(grpc://\)"),
        (b"\x15\x03\x03\x00\x02\x02\x46", r"expects TLS \(wss://\)"),
        (b"", "ended before there was an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
    ],
)
async def test_a_server_that_is_no_websocket_is_named(answer: bytes, reason: str) -> None:
    async with _server_saying(answer) as port:
        error = await _failure(f"ws://127.0.0.1:{port}")
    assert error.code == "protocol_error"
    assert re.search(reason, str(error))
    assert f"ws://127.0.0.1:{port}/message" in str(error)


async def test_a_server_that_never_answers_runs_into_the_time_limit() -> None:
    async with _server_saying(None) as port:
        error = await _failure(f"ws://127.0.0.1:{port}", connect_timeout=0.05)
    assert isinstance(error, EnSyncTimeoutError)
    assert "in time" in str(error)


async def test_tls_with_a_server_in_plain_text() -> None:
    async with _server_saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        error = await _failure(f"wss://127.0.0.1:{port}")
    assert error.code == "tls_failed"
    assert "say ws:// instead of wss://" in str(error)


async def test_debug_logs_show_no_app_key(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("", "websockets", "websockets.client", "ensync"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with scripted_engine(silent) as engine, engine.link() as tested:
        await tested.authenticate("very-secret-key")
    own = [entry for entry in caplog.records if not entry.name.startswith("websockets.server")]
    assert not any("very-secret-key" in entry.getMessage() for entry in own)


# Proxies and compression


@asynccontextmanager
async def _proxy_to(port: int, requests: list[str]) -> AsyncIterator[str]:
    """An HTTP proxy that connects to one port, whatever it is asked for; 0: it refuses."""

    async def handle(client: SocketStream) -> None:
        async with client:
            requests.append((await client.receive()).decode().partition("\r\n")[0])
            if port == 0:
                await client.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            async with await anyio.connect_tcp("127.0.0.1", port) as engine:
                await client.send(b"HTTP/1.1 200 OK\r\n\r\n")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_pipe, client, engine)
                    await _pipe(engine, client)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


async def _pipe(source: SocketStream, sink: SocketStream) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in source:
            await sink.send(data)
        await sink.send_eof()


async def _authenticate_through(proxy: Proxy, url: str, engine: ScriptedEngine) -> Identity:
    transport = WebSocketTransport(
        parse_address(url), engine.side, tls=None, connect_timeout=5, proxy=proxy
    )
    link = await engine.side.run(transport.open_link, print)
    try:
        return await engine.side.run(link.authenticate, "key")
    finally:
        await engine.side.run(link.aclose)


async def test_a_connection_may_go_through_a_proxy() -> None:
    requests: list[str] = []
    async with scripted_engine(silent) as engine, _proxy_to(engine.port, requests) as proxy:
        identity = await _authenticate_through(proxy, "ws://engine.invalid", engine)
    assert identity.client_id == "c1"
    assert requests == ["CONNECT engine.invalid:80 HTTP/1.1"]


async def test_the_environment_may_name_a_proxy_which_loopback_never_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[str] = []
    async with scripted_engine(silent) as engine, _proxy_to(engine.port, requests) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "socks_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        await _authenticate_through(True, engine.url, engine)
        assert requests == []
        await _authenticate_through(True, "ws://engine.invalid", engine)
        assert len(requests) == 1


async def test_a_proxy_that_refuses_is_named_as_the_culprit() -> None:
    async with scripted_engine(silent) as engine, _proxy_to(0, []) as proxy:
        with pytest.raises(EnSyncConnectionError, match="through the proxy") as caught:
            await _authenticate_through(proxy, "ws://engine.invalid", engine)
    assert caught.value.code == "connect_failed"


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_compression_is_offered_only_when_asked_for(
    compression: Literal["deflate"] | None,
) -> None:
    async with scripted_engine(silent) as engine:
        connecting = ensync.connect(engine.url, app_key="key-of-an-app", compression=compression)
        async with connecting:
            request = engine.connections[0].request
    assert request is not None
    assert ("Sec-WebSocket-Extensions" in request.headers) == (compression is not None)
