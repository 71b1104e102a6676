"""An engine that is restarted while clients hold on to it."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

import ensync
from ensync.options import Reconnect
from ensync.server.apps import App
from ensync.testing import RestartableEngine
from tests.unit.testing.echo import within

pytestmark = pytest.mark.anyio

NAME = "orders/updated"
SOON = Reconnect(initial=0.005, maximum=0.02, max_attempts=None)
MANY = 20


@pytest.fixture
async def engine() -> AsyncIterator[RestartableEngine]:
    async with RestartableEngine() as running:
        yield running


@pytest.fixture
def app(engine: RestartableEngine) -> App:
    return engine.create_app("shop")


def connect(url: str, app: App, **options: Any) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
    options = {"reconnect": SOON, "request_timeout": 10.0, **options}
    return ensync.connect(url, app_key=app.app_key, app_secret_key=app.secret_key, **options)


def url_of(engine: RestartableEngine, transport: str) -> str:
    return engine.url if transport == "grpc" else engine.websocket_url


async def next_payload(subscription: ensync.Subscription[Any]) -> object:
    async for event in subscription:
        return event.payload
    raise AssertionError("the subscription ended")


@pytest.mark.parametrize("transport", ["grpc", "websocket"])
@pytest.mark.parametrize("crash", [False, True])
async def test_clients_and_events_outlive_a_restart(
    engine: RestartableEngine, app: App, transport: str, crash: bool
) -> None:
    with within():
        async with connect(url_of(engine, transport), app) as client:
            await client.publish(NAME, [client.app_id], "before")
            await engine.restart(crash=crash)
            async with client.subscribe(NAME) as subscription:
                assert await next_payload(subscription) == "before"
            assert engine.faults.happened == ({"abort_connections": 1} if crash else {})


async def test_events_can_be_forgotten(engine: RestartableEngine, app: App) -> None:
    with within():
        async with connect(engine.url, app) as client:
            await client.publish(NAME, [client.app_id], "before")
            await engine.restart(forget_events=True)
            async with client.subscribe(NAME) as subscription:
                await client.publish(NAME, [client.app_id], "after")
                assert await next_payload(subscription) == "after"


async def test_apps_can_be_forgotten(engine: RestartableEngine, app: App) -> None:
    with within(), pytest.raises(ensync.EnSyncAuthenticationError):
        await lose_the_app(engine, app)


async def lose_the_app(engine: RestartableEngine, app: App) -> None:
    async with connect(engine.url, app) as client, client.subscribe(NAME) as subscription:
        await engine.restart(forget_apps=True)
        await next_payload(subscription)


async def test_faults_outlive_a_restart(engine: RestartableEngine, app: App) -> None:
    engine.faults.refuse_next("publish", "not today")
    await engine.restart()
    with within():
        async with connect(engine.url, app) as client:
            with pytest.raises(ensync.EnSyncPublishError, match="not today"):
                await client.publish(NAME, [client.app_id], 1)


async def test_a_stopped_engine_refuses_connections(engine: RestartableEngine, app: App) -> None:
    url = engine.url
    await engine.stop()
    await engine.stop()
    assert not engine.is_running
    with within(), pytest.raises(ensync.EnSyncConnectionError):
        async with connect(url, app):
            pytest.fail("connected")
    await engine.start()
    await engine.start()
    assert engine.url == url
    with within():
        async with connect(url, app):
            assert engine.is_running


@pytest.mark.skipif(sys.platform != "linux", reason="ports can't be kept so elsewhere")
async def test_nobody_else_gets_the_ports_of_a_stopped_engine(engine: RestartableEngine) -> None:
    await engine.stop()
    for url in (engine.url, engine.websocket_url):
        port = urlsplit(url).port
        assert port
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


async def test_many_restarts_with_a_client_at_work(engine: RestartableEngine, app: App) -> None:
    with anyio.fail_after(20):
        async with connect(engine.url, app) as client, client.subscribe(NAME) as subscription:
            for number in range(MANY):
                await engine.restart(crash=number % 2 == 0)
                await engine.faults.wait_calls("subscribe", number + 2)
                await client.publish(NAME, [client.app_id], number)
                while await next_payload(subscription) != number:
                    pass


async def test_it_can_be_left_while_it_is_stopped() -> None:
    async with RestartableEngine() as engine:
        await engine.stop()
    assert not engine.is_running


async def test_an_error_leaves_bare() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with RestartableEngine():
            raise LookupError("mine")


async def test_what_it_decides_by_itself_is_refused() -> None:
    with pytest.raises(ensync.EnSyncValidationError, match="store"):
        RestartableEngine(store=None)


async def test_it_has_to_be_open_and_running(engine: RestartableEngine) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await RestartableEngine().start()
    await engine.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        engine.create_app("late")
