from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSAttribute, TLSStream
from grpclib.const import Status
from h2.events import ConnectionTerminated

from ensync.errors import EnSyncGenericError, EnSyncValidationError
from ensync.proto.ensync import (
    ConnectRequest,
    ConnectResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    SubscribeRequest,
)
from ensync.server.apps import MemoryAppStorage
from ensync.server.hooks import DoorCall, DoorFault, DoorHooks
from ensync.server.local import LocalEngine
from ensync.server.memory import MemoryStore
from tests.unit.server.grpc_client import (
    Conversation,
    conversation,
    port_of,
    receive,
    until,
)
from tests.unit.server.raw_http2 import RawConnection, framed, raw_connection

SUBSCRIBE = "/ensync.EnSyncService/Subscribe"

pytestmark = pytest.mark.anyio


async def test_it_listens_on_loopback_ports() -> None:
    async with LocalEngine() as engine:
        assert re.fullmatch(r"grpc://127\.0\.0\.1:\d+", engine.url)
        assert re.fullmatch(r"ws://127\.0\.0\.1:\d+", engine.websocket_url)
        for url in (engine.url, engine.websocket_url):
            async with await anyio.connect_tcp("127.0.0.1", port_of(url)):
                pass
    for url in (engine.url, engine.websocket_url):
        with pytest.raises(OSError, match="connect"):
            await anyio.connect_tcp("127.0.0.1", port_of(url))


async def test_ports_can_be_chosen(free_tcp_port_factory: Callable[[], int]) -> None:
    ports = [free_tcp_port_factory(), free_tcp_port_factory()]
    async with LocalEngine(port=ports[0], websocket_port=ports[1]) as engine:
        assert [port_of(engine.url), port_of(engine.websocket_url)] == ports


async def test_ipv6_urls_have_brackets() -> None:
    async with LocalEngine(host="::1") as engine:
        assert engine.url.startswith("grpc://[::1]:")


async def test_a_port_in_use_is_told() -> None:
    async with LocalEngine() as engine:
        with pytest.raises(EnSyncGenericError, match=r"can't listen on 127\.0\.0\.1") as caught:
            async with LocalEngine(port=port_of(engine.url)):
                pass
        assert caught.value.code == "cannot_listen"
        assert isinstance(caught.value.__cause__, OSError)


async def test_a_second_door_that_can_not_open_closes_the_first(free_tcp_port: int) -> None:
    async with LocalEngine() as engine:
        with pytest.raises(EnSyncGenericError, match="can't listen"):
            async with LocalEngine(port=free_tcp_port, websocket_port=port_of(engine.url)):
                pass
        async with LocalEngine(port=free_tcp_port):
            pass


async def test_urls_need_a_running_engine() -> None:
    engine = LocalEngine()
    for name in ("url", "websocket_url"):
        with pytest.raises(EnSyncGenericError, match="not running"):
            getattr(engine, name)


BAD_OPTIONS: list[dict[str, Any]] = [
    {"port": -1},
    {"websocket_port": "8080"},
    {"generations": ()},
    {"generations": "event"},
    {"generations": ("letter",)},
    {"max_in_flight": 0},
    {"max_concurrent_streams": 0},
    {"heartbeat_timeout": 0},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
async def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(EnSyncValidationError, match=name):
        LocalEngine(**options)


async def test_an_error_in_its_block_comes_out_bare() -> None:
    with pytest.raises(ZeroDivisionError):
        async with LocalEngine():
            raise ZeroDivisionError


async def test_cancelling_its_block_ends_it() -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, LocalEngine():
            tasks.cancel_scope.cancel()
            await anyio.sleep_forever()


async def test_many_engines_at_once() -> None:
    async with LocalEngine() as first, LocalEngine() as second:
        assert first.url != second.url
        first.create_app("app")
        assert second.apps.list() == []


@pytest.mark.all_loops
@conversation()
async def test_it_runs_on_every_loop(talk: Conversation) -> None:
    client = await talk.client()
    async with client.subscribed() as stream:
        await client.publish()
        await receive(stream)
        statistics = talk.engine.statistics()
    assert (statistics.clients, statistics.published, statistics.delivered) == (1, 1, 1)


async def test_a_removed_app_is_cut_off() -> None:
    @conversation()
    async def scenario(talk: Conversation) -> None:
        client = await talk.client()
        await talk.engine.remove_app(talk.app.app_id)
        request = HeartbeatRequest(client_id=client.client_id)
        assert not (await client.call("Heartbeat", request, HeartbeatResponse)).success

    await scenario()


async def test_another_engine_can_go_on_with_its_store() -> None:
    store, storage = MemoryStore(), MemoryAppStorage()
    idems: list[str] = []

    @conversation(store=store, app_storage=storage)
    async def publish(talk: Conversation) -> None:
        client = await talk.client()
        idems.append((await client.publish()).event_idem)

    await publish()
    async with LocalEngine(store=store, app_storage=storage) as engine:
        assert [record.name for record in engine.apps.list()] == ["billing"]
        assert await engine.broker.store.find(idems[0]) is not None


async def test_everything_is_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    idems: list[str] = []

    @conversation(data=path)
    async def publish(talk: Conversation) -> None:
        client = await talk.client()
        idems.append((await client.publish()).event_idem)

    await publish()
    async with LocalEngine(data=path) as engine:
        assert [record.name for record in engine.apps.list()] == ["billing"]
        found = await engine.broker.store.find(idems[0])
        assert found is not None


class NeverAnswer(DoorHooks):
    asked = False

    async def before_handling(self, call: DoorCall) -> None:
        self.asked = True
        raise DoorFault("", silent=True)


async def test_stopping_waits_for_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensync.server.grpc._CLOSE_TIMEOUT", 0.05)
    hooks = NeverAnswer()
    async with LocalEngine(hooks=hooks) as engine:
        stream = await anyio.connect_tcp("127.0.0.1", port_of(engine.url))
        raw = RawConnection(stream)
        await raw.ask(framed(bytes(ConnectRequest(access_key="some-key"))))
        await until(lambda: hooks.asked)
        started = anyio.current_time()
    assert 0.05 <= anyio.current_time() - started < 10
    await stream.aclose()


class Tls:
    """What an engine and its clients need for TLS."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.engine = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate = authority.issue_cert("127.0.0.1")
        certificate.configure_cert(self.engine)  # pyright: ignore[reportUnknownMemberType]
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)  # pyright: ignore[reportUnknownMemberType]

    async def connect(self, url: str) -> TLSStream:
        return await anyio.connect_tcp(
            "127.0.0.1", port_of(url), ssl_context=self.client, tls_standard_compatible=False
        )


async def test_a_grpc_call_over_tls() -> None:
    tls = Tls()
    tls.client.set_alpn_protocols(["h2"])
    async with LocalEngine(tls=tls.engine) as engine:
        app = engine.create_app("app")
        assert engine.url.startswith("grpcs://")
        async with await tls.connect(engine.url) as stream:
            assert stream.extra(TLSAttribute.alpn_protocol) == "h2"
            request = ConnectRequest(access_key=app.app_key)
            reply = await RawConnection(stream).answer_to(framed(bytes(request)))
            assert ConnectResponse.parse(reply.data[5:]).client_hash == app.app_id


async def test_a_websocket_over_tls() -> None:
    tls = Tls()
    tls.client.set_alpn_protocols(["http/1.1"])
    async with LocalEngine(tls=tls.engine) as engine:
        assert engine.websocket_url.startswith("wss://")
        async with await tls.connect(engine.websocket_url) as stream:
            await stream.send(b"GET /message HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 ")


async def test_with_tls_nothing_is_said_in_the_clear() -> None:
    async with LocalEngine(tls=Tls().engine) as engine:
        for url in (engine.url, engine.websocket_url):
            async with raw_connection(port_of(url)) as raw:
                said = await raw.until_closed()
                assert len(said) < 20  # at most a TLS alert


async def test_stopping_says_good_bye() -> None:
    async with LocalEngine() as engine:
        app = engine.create_app("app")
        client_id = engine.broker.connect(app.app_key, "elsewhere").client_id
        stream = await anyio.connect_tcp("127.0.0.1", port_of(engine.url))
        raw = RawConnection(stream)
        request = SubscribeRequest(client_id=client_id, event_name="name")
        stream_id = await raw.ask(framed(bytes(request)), path=SUBSCRIBE)
        await until(lambda: engine.statistics().subscriptions)
    reply = await raw.reply(stream_id)
    assert reply.status is Status.UNAVAILABLE
    assert "stopping" in reply.headers["grpc-message"]
    if not raw.has_gone_away:
        await raw.event(ConnectionTerminated)
    await stream.aclose()


async def test_silent_clients_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensync.server.local._TEND_INTERVAL", 0.01)
    async with LocalEngine(heartbeat_timeout=0.02) as engine:
        app = engine.create_app("app")
        engine.broker.connect(app.app_key, "connection")
        assert engine.statistics().clients == 1
        await until(lambda: engine.statistics().clients == 0)
