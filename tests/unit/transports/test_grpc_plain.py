"""Whatever speaks HTTP/2 below, a program sees the same."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import anyio.abc
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults, RestartableEngine
from ensync.transports.grpc_connection import HTTP2_WAYS, Http2
from tests.unit.transports.http2_pair import raw_frame

pytestmark = [pytest.mark.anyio, pytest.mark.local_engine]

PATIENCE = 10.0
NAME = "orders/new"
QUICK = ensync.Reconnect(initial=0.001, maximum=0.01, max_attempts=None)


@pytest.fixture(params=HTTP2_WAYS)
def http2(request: pytest.FixtureRequest) -> Http2:
    way: Http2 = request.param
    return way


@asynccontextmanager
async def opened(
    http2: Http2, faults: Faults | None = None
) -> AsyncIterator[tuple[ensync.EnSyncClient, LocalEngine]]:
    async with LocalEngine(hooks=faults or Faults()) as engine:
        app = engine.create_app("app")
        async with ensync.connect(
            engine.url,
            app_key=app.app_key,
            app_secret_key=app.secret_key,
            http2=http2,
            reconnect=QUICK,
        ) as client:
            yield client, engine


async def take(subscription: ensync.Subscription[object], count: int) -> list[object]:
    payloads: list[object] = []
    with anyio.fail_after(PATIENCE):
        async for event in subscription:
            payloads.append(event.payload)
            if len(payloads) == count:
                break
    return payloads


async def connected_again(client: ensync.EnSyncClient, faults: Faults) -> None:
    with anyio.fail_after(PATIENCE):
        await faults.wait_calls("connect", 2)
        async for state in client.states():
            if state is ensync.ClientState.CONNECTED:
                return


@pytest.mark.parametrize("size", [10, 100_000, 2_000_000])
async def test_publish_subscribe_and_acknowledge(http2: Http2, size: int) -> None:
    payloads = [str(number) * size for number in range(3)]
    async with opened(http2) as (client, _):
        async with client.subscribe(NAME) as subscription:
            for payload in payloads:
                await client.publish(NAME, [client.app_id], payload)
            assert await take(subscription, 3) == payloads
        async with client.subscribe(NAME) as subscription:
            await client.publish(NAME, [client.app_id], "the next one")
            assert await take(subscription, 1) == ["the next one"]


async def test_many_calls_at_a_time(http2: Http2) -> None:
    async with opened(http2) as (client, _), anyio.create_task_group() as tasks:
        for number in range(300):
            tasks.start_soon(client.publish, NAME, [client.app_id], number)


async def test_a_refusal(http2: Http2) -> None:
    faults = Faults()
    async with opened(http2, faults) as (client, _):
        faults.refuse_next("publish", "not today")
        with pytest.raises(ensync.EnSyncPublishError, match="not today"):
            await client.publish(NAME, [client.app_id], 1)
        faults.fail_next("publish", status="PERMISSION_DENIED", text="never")
        with pytest.raises(ensync.EnSyncPublishError, match="never"):
            await client.publish(NAME, [client.app_id], 1)
        faults.fail_next("subscribe", status="PERMISSION_DENIED", text="nor this")
        with pytest.raises(ensync.EnSyncSubscriptionError, match="nor this"):
            async with client.subscribe(NAME):
                pass
        assert (await client.publish(NAME, [client.app_id], 1)).event_id


async def test_a_cancelled_call_leaves_the_rest_alone(http2: Http2) -> None:
    faults = Faults()
    async with opened(http2, faults) as (client, _):
        faults.drop_request("publish")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.publish, NAME, [client.app_id], "never answered")
            await faults.wait_calls("publish", 1)
            tasks.cancel_scope.cancel()
        assert (await client.publish(NAME, [client.app_id], 1)).event_id


@pytest.mark.parametrize("how", ["abort", "goaway", "goaway with error", "restart"])
async def test_reconnecting(http2: Http2, how: str) -> None:
    async with RestartableEngine() as engine:
        app = engine.create_app("app")
        connecting = ensync.connect(
            engine.url,
            app_key=app.app_key,
            app_secret_key=app.secret_key,
            http2=http2,
            reconnect=QUICK,
        )
        async with connecting as client, client.subscribe(NAME) as subscription:
            if how == "restart":
                await engine.restart(crash=True)
            elif how == "abort":
                engine.faults.abort_connections()
            else:
                engine.faults.goaway(error=how != "goaway")
            await connected_again(client, engine.faults)
            await client.publish(NAME, [client.app_id], "after")
            assert await take(subscription, 1) == ["after"]


class Between:
    """Passes bytes on, and puts frames in between."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._clients: list[anyio.abc.SocketStream] = []
        self._sending = anyio.Lock()
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            self.url = f"grpc://127.0.0.1:{port}"
            tasks.start_soon(listener.serve, self._serve)
            yield
            tasks.cancel_scope.cancel()

    async def _serve(self, client: anyio.abc.SocketStream) -> None:
        self._clients.append(client)
        async with (
            client,
            await anyio.connect_tcp(*self._target) as engine,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._pass_on, client, engine, tasks.cancel_scope)
            tasks.start_soon(self._pass_on, engine, client, tasks.cancel_scope)
        self._clients.remove(client)

    async def _pass_on(
        self, source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, over: anyio.CancelScope
    ) -> None:
        try:
            async for data in source:
                async with self._sending:
                    await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            over.cancel()
        over.cancel()

    async def say(self, frame: bytes) -> None:
        """Between what the engine writes, which is whole frames."""
        async with self._sending:
            for client in self._clients:
                await client.send(frame)


async def test_h2_takes_over_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    # A reset of a stream that never was: the RFC has it end the connection, h2 has not.
    odd = raw_frame(3, 0, 99_999, bytes(4))
    faults = Faults()
    async with LocalEngine(hooks=faults) as engine:
        app = engine.create_app("app")
        between = Between(engine.url)
        async with between.serving():
            connecting = ensync.connect(
                between.url, app_key=app.app_key, app_secret_key=app.secret_key, reconnect=QUICK
            )
            async with connecting as client, client.subscribe(NAME) as subscription:
                with caplog.at_level(logging.WARNING, "ensync"):
                    await between.say(odd)
                    await connected_again(client, faults)
                assert "going on with h2" in caplog.text
                await client.publish(NAME, [client.app_id], 1)
                assert await take(subscription, 1) == [1]
                await between.say(odd)
                await client.publish(NAME, [client.app_id], 2)
                assert await take(subscription, 1) == [2]
                assert faults.calls("connect") == 2
