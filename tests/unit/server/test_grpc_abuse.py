"""What clients may do to the gRPC door without hurting it, or anybody else."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import unquote

import anyio
import anyio.abc
import anyio.lowlevel
import h2.events
import pytest
from grpclib.const import Status
from h2.settings import SettingCodes

from ensync.proto.ensync import (
    ConnectRequest,
    ConnectResponse,
    HeartbeatRequest,
    PublishEventRequest,
)
from ensync.server.apps import App, AppRegistry
from ensync.server.broker import Broker
from ensync.server.grpc import GrpcDoor, GrpcOptions, serve_grpc
from ensync.server.grpc_limits import GrpcLimits
from ensync.server.hooks import DoorCall, DoorHooks
from ensync.server.http2 import GrpcConnection
from ensync.server.memory import MemoryStore
from ensync.server.store import NewEvent, StoredEvent
from ensync.transports.bridge import open_asyncio_side
from tests.unit.server.brokers import NAME, envelope
from tests.unit.server.raw_http2 import RawConnection, framed, raw_connection

pytestmark = pytest.mark.anyio

MIB = 1 << 20
PUBLISH = "/ensync.EnSyncService/PublishEvent"


class Bench:
    """A door, and raw connections to it."""

    def __init__(self, door: GrpcDoor, broker: Broker, app: App) -> None:
        self.door = door
        self.broker = broker
        self.app = app
        self.app_key = app.app_key

    def connection(self) -> AbstractAsyncContextManager[RawConnection]:
        return raw_connection(self.door.port)

    async def assert_alive(self) -> None:
        """A well-behaved client is served."""
        async with self.connection() as raw:
            reply = await raw.answer_to(framed(bytes(ConnectRequest(access_key=self.app_key))))
            assert reply.status is Status.OK
            assert ConnectResponse.parse(reply.data[5:]).success


@asynccontextmanager
async def open_bench(
    limits: GrpcLimits | None = None,
    hooks: DoorHooks | None = None,
    store: MemoryStore | None = None,
) -> AsyncIterator[Bench]:
    apps = AppRegistry()
    app = apps.create("app")
    broker = Broker(store or MemoryStore(), apps)
    async with open_asyncio_side() as side:

        async def serve() -> GrpcDoor:
            return await serve_grpc(
                side,
                broker,
                host="127.0.0.1",
                port=0,
                tls=None,
                hooks=hooks or DoorHooks(),
                options=GrpcOptions(limits=limits or GrpcLimits()),
            )

        door = await side.run(serve)
        try:
            yield Bench(door, broker, app)
        finally:
            await broker.shut_down()
            await side.run(door.aclose)


CONNECT_BODY = framed(bytes(ConnectRequest(access_key="some-app-key")))

BAD_REQUESTS: dict[str, tuple[bytes, Status]] = {
    "nothing": (b"", Status.INVALID_ARGUMENT),
    "half a prefix": (b"\0\0", Status.INVALID_ARGUMENT),
    "less than announced": (framed(b"abc", size=100), Status.INVALID_ARGUMENT),
    "no protobuf": (framed(b"\xff\xff\xff\xff"), Status.INVALID_ARGUMENT),
    "no UTF-8": (framed(b"\x0a\x02\xff\xfe"), Status.INVALID_ARGUMENT),
    "a number for a text": (framed(b"\x08\x01"), Status.INVALID_ARGUMENT),
    "half a text": (framed(b"\x0a\x05ab"), Status.INVALID_ARGUMENT),
    "compressed somehow": (framed(b"abc", compressed=1), Status.INTERNAL),
    "a bad flag": (framed(b"abc", compressed=7), Status.INVALID_ARGUMENT),
    "too large": (framed(b"", size=6 * MIB + 1), Status.RESOURCE_EXHAUSTED),
    "absurdly large": (framed(b"", size=(1 << 32) - 1), Status.RESOURCE_EXHAUSTED),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_bad_requests_get_a_status(name: str, caplog: pytest.LogCaptureFixture) -> None:
    body, status = BAD_REQUESTS[name]
    async with open_bench() as bench:
        async with bench.connection() as raw:
            assert (await raw.answer_to(body)).status is status
        await bench.assert_alive()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_what_is_too_large_is_refused_before_it_comes() -> None:
    async with open_bench() as bench, bench.connection() as raw:
        reply = await raw.answer_to(framed(b"", size=7 * MIB), end=False)
        assert reply.status is Status.RESOURCE_EXHAUSTED
        assert "too large" in unquote(reply.headers["grpc-message"])


async def test_requests_that_are_answered_early_leave_no_stream_open() -> None:
    async with open_bench(GrpcLimits(concurrent_streams=5)) as bench, bench.connection() as raw:
        for _ in range(10):
            stream_id = await raw.ask(framed(b"", size=7 * MIB), end=False)
            reset = await raw.event(h2.events.StreamReset)
            assert reset.stream_id == stream_id


async def test_after_a_goaway_new_calls_are_refused() -> None:
    async with open_bench() as bench, bench.connection() as raw:
        first = await raw.ask(CONNECT_BODY[:-1], end=False)
        while not (connections := bench.door.connections):
            await anyio.lowlevel.checkpoint()
        [connection] = connections
        while not connection.calls:  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.001)
        connection.go_away()
        second = await raw.ask(CONNECT_BODY)
        await until_said(raw, (GOAWAY, 0), (RST_STREAM, second))
        raw.h2.send_data(first, CONNECT_BODY[-1:], end_stream=True)
        await raw.flush()
        await until_said(raw, (HEADERS, first))


HEADERS, RST_STREAM, GOAWAY = 1, 3, 7


async def until_said(raw: RawConnection, *expected: tuple[int, int]) -> None:
    said = b""
    with anyio.fail_after(5):
        while not set(expected).issubset(_frames(said)):
            said += await raw.stream.receive()


def _frames(data: bytes) -> list[tuple[int, int]]:
    """The kind and the stream of each frame; h2 would not read on after a GOAWAY."""
    frames: list[tuple[int, int]] = []
    while data:
        size = int.from_bytes(data[:3], "big")
        frames.append((data[3], int.from_bytes(data[5:9], "big")))
        data = data[9 + size :]
    return frames


async def test_unknown_fields_are_refused() -> None:
    body = bytes(ConnectRequest(access_key="key")) + b"\x7a\x03abc"
    async with open_bench() as bench, bench.connection() as raw:
        reply = await raw.answer_to(framed(body))
        assert reply.status is Status.INVALID_ARGUMENT
        assert "fields that ConnectRequest does not have" in unquote(reply.headers["grpc-message"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, Status.INVALID_ARGUMENT),
        ({"content-type": "application/grpc+json"}, Status.INVALID_ARGUMENT),
        ({"grpc-encoding": "snappy"}, Status.UNIMPLEMENTED),
        ({":path": "/ensync.EnSyncService/Drop"}, Status.UNIMPLEMENTED),
        ({":path": "/other.Service/Connect"}, Status.UNIMPLEMENTED),
        ({":path": ""}, Status.UNIMPLEMENTED),
    ],
)
async def test_other_calls_are_refused(headers: dict[str, str], status: Status) -> None:
    async with open_bench() as bench:
        async with bench.connection() as raw:
            assert (await raw.answer_to(CONNECT_BODY, headers=headers)).status is status
        await bench.assert_alive()


async def test_a_header_may_hold_any_byte(caplog: pytest.LogCaptureFixture) -> None:
    async with open_bench() as bench, bench.connection() as raw:
        reply = await raw.answer_to(CONNECT_BODY, headers={"user-agent": "caf\xe9"})
        assert reply.status is Status.OK
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x05\x00\x00\x00\x00\x00\x00" * 9,
    ],
)
async def test_other_protocols_are_cut_off(data: bytes) -> None:
    async with open_bench() as bench:
        async with await anyio.connect_tcp("127.0.0.1", bench.door.port) as stream:
            await stream.send(data)
            await RawConnection(stream).until_closed()
        await bench.assert_alive()


async def test_unknown_frames_are_ignored() -> None:
    async with open_bench() as bench, bench.connection() as raw:
        await raw.stream.send(b"\x00\x00\x03\xee\x00\x00\x00\x00\x00abc")
        assert (await raw.answer_to(CONNECT_BODY)).status is Status.OK


async def test_a_request_that_never_ends_is_given_up() -> None:
    async with open_bench(GrpcLimits(read_timeout=0.02)) as bench, bench.connection() as raw:
        reply = await raw.answer_to(CONNECT_BODY[:7], end=False)
        assert reply.status is Status.DEADLINE_EXCEEDED


async def assert_waits_for(raw: RawConnection, second: int, first: int, rest: bytes) -> None:
    """One request is not answered before the rest of another has come."""
    with anyio.move_on_after(0.05) as waited:
        await raw.reply(second)
    assert waited.cancelled_caught
    raw.h2.send_data(first, rest, end_stream=True)
    await raw.flush()
    with anyio.fail_after(10):
        assert (await raw.reply(second)).status is Status.OK


async def test_few_large_requests_are_read_at_once() -> None:
    limits = GrpcLimits(large_message_bytes=10, large_messages=1)
    async with open_bench(limits) as bench, bench.connection() as raw:
        first = await raw.ask(CONNECT_BODY[:-1], end=False)
        second = await raw.ask(CONNECT_BODY)
        await assert_waits_for(raw, second, first, CONNECT_BODY[-1:])


async def test_who_reads_no_replies_is_cut_off() -> None:
    async with open_bench(GrpcLimits(unsent_bytes=64 * 1024)) as bench:
        # Connections inherit it: else the system would take megabytes for who reads nothing.
        bench.door._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with bench.connection() as raw:
            await raw.answer_to(CONNECT_BODY)
            raw_socket = raw.stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"x" * 8
            with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
                with anyio.fail_after(20):
                    while True:
                        await raw.stream.send(ping * 10_000)
        await bench.assert_alive()


async def test_the_number_of_connections_is_limited() -> None:
    async with open_bench(GrpcLimits(connections=2)) as bench:
        async with bench.connection() as first, bench.connection() as second:
            await first.answer_to(CONNECT_BODY)
            await second.answer_to(CONNECT_BODY)
            async with await anyio.connect_tcp("127.0.0.1", bench.door.port) as third:
                assert await RawConnection(third).until_closed() == b""
        with anyio.fail_after(10):
            while bench.door.connections:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.001)
        await bench.assert_alive()


async def test_too_many_streams_end_the_connection() -> None:
    async with open_bench(GrpcLimits(concurrent_streams=5)) as bench:
        async with bench.connection() as raw:
            await raw.answer_to(CONNECT_BODY)  # by now the settings are agreed upon
            raw.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 100
            raw.h2.remote_settings.acknowledge()
            for _ in range(6):
                await raw.ask(CONNECT_BODY[:-1], end=False)
            await raw.until_closed()
        await bench.assert_alive()


async def test_resets_leave_nothing_behind() -> None:
    async with open_bench() as bench, bench.connection() as raw:
        for _ in range(300):
            stream_id = await raw.ask(CONNECT_BODY[:3], end=False)
            raw.h2.reset_stream(stream_id)
            await raw.flush()
        assert (await raw.answer_to(CONNECT_BODY)).status is Status.OK
        [connection] = bench.door.connections
        with anyio.fail_after(10):
            while connection.calls:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.001)
        assert not connection.processor.streams


def silent_for(connection: GrpcConnection, seconds: float) -> None:
    """Lets the door look at a connection as if nothing had come for so long."""
    connection._last_received = anyio.current_time() - seconds
    connection.check_alive()


async def test_a_client_that_answers_no_ping_is_given_up() -> None:
    async with open_bench() as bench:
        async with bench.connection() as raw:
            await raw.answer_to(framed(bytes(ConnectRequest(access_key=bench.app_key))))
            assert bench.broker.statistics().clients == 1
            [connection], limits = bench.door.connections, bench.door.limits
            silent_for(connection, limits.ping_interval + 1)
            said = b""
            with anyio.fail_after(10):
                while b"ensync.." not in said:
                    said += await raw.stream.receive()
            silent_for(connection, limits.ping_interval + limits.ping_timeout + 1)
            await raw.until_closed()
        with anyio.fail_after(10):
            while bench.broker.statistics().clients:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.001)


async def test_a_client_that_answers_pings_may_be_silent() -> None:
    async with open_bench() as bench, bench.connection() as raw:
        await raw.answer_to(CONNECT_BODY)
        [connection], limits = bench.door.connections, bench.door.limits
        for _ in range(5):
            silent_for(connection, limits.ping_interval + 1)
            waits_since = connection._last_received
            await raw.event(h2.events.PingReceived)
            await raw.flush()
            with anyio.fail_after(10):
                while connection._last_received == waits_since:  # noqa: ASYNC110 - no event for it
                    await anyio.sleep(0.001)
        assert (await raw.answer_to(CONNECT_BODY)).status is Status.OK


async def test_the_door_looks_after_its_connections_by_itself() -> None:
    limits = GrpcLimits(ping_interval=0.02, ping_timeout=0.02)
    async with open_bench(limits) as bench, bench.connection() as raw:
        await raw.until_closed()


class SlowStore(MemoryStore):
    """Takes its time to store an event."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: anyio.Event = anyio.Event()
        self.gate: anyio.Event | None = None

    async def append(self, event: NewEvent, dedupe: str | None = None) -> StoredEvent:
        self.gate = anyio.Event()
        self.asked.set()
        await self.gate.wait()
        return await super().append(event, dedupe)


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_what_was_begun_is_finished_without_its_client(how: str) -> None:
    store = SlowStore()
    async with open_bench(store=store) as bench, bench.connection() as raw:
        client_id = bench.broker.connect(bench.app_key, "elsewhere").client_id
        publication = PublishEventRequest(
            client_id=client_id,
            event_name=NAME,
            payload=envelope("e"),
            delivery_to=bench.app.app_id,
        )
        stream_id = await raw.ask(framed(bytes(publication)), path=PUBLISH)
        await store.asked.wait()
        if how == "reset":
            raw.h2.reset_stream(stream_id)
            await raw.flush()
        else:
            await raw.stream.aclose()
        await anyio.wait_all_tasks_blocked()
        assert store.gate is not None
        store.gate.set()
        with anyio.fail_after(5):
            while not bench.broker.statistics().published:  # noqa: ASYNC110 - there is no event
                await anyio.sleep(0.001)


class Broken(DoorHooks):
    async def before_handling(self, call: DoorCall) -> None:
        if call.method == "heartbeat":
            raise ZeroDivisionError("a secret detail")


async def test_internal_errors_are_logged_and_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_bench(hooks=Broken()) as bench:
        async with bench.connection() as raw:
            body = framed(bytes(HeartbeatRequest(client_id="x")))
            reply = await raw.answer_to(body, path="/ensync.EnSyncService/Heartbeat")
        await bench.assert_alive()
    assert reply.status is Status.INTERNAL
    assert "secret" not in str(reply.headers)
    assert "ZeroDivisionError" in caplog.text
