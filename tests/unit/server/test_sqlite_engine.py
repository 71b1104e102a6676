"""The engine on a data file, as a client sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import cast

import anyio
import anyio.lowlevel
import pytest

import ensync
from ensync.server.apps import App
from ensync.server.local import LocalEngine
from ensync.server.sqlite import SqliteStore
from ensync.server.store import EventState

pytestmark = pytest.mark.anyio

EVENT_NAME = "orders/paid"

Url = Callable[[LocalEngine], str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def grpc_url(engine: LocalEngine) -> str:
    return engine.url


def websocket_url(engine: LocalEngine) -> str:
    return engine.websocket_url


def connected(url: str, app: App) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
    return ensync.connect(url, app_key=app.app_key, app_secret_key=app.secret_key)


@pytest.mark.parametrize("url", [grpc_url, websocket_url])
async def test_events_and_apps_outlive_the_engine(data: Path, url: Url) -> None:
    async with LocalEngine(data=data) as engine:
        app = engine.create_app("app")
        async with connected(url(engine), app) as client:
            for number in range(3):
                await client.publish(EVENT_NAME, [app.app_id], {"number": number})
            async with client.subscribe(EVENT_NAME, auto_ack=False) as subscription:
                async for event in subscription:
                    await event.ack()
                    break
    async with (
        LocalEngine(data=data) as engine,
        connected(url(engine), app) as client,
        client.subscribe(EVENT_NAME) as subscription,
    ):
        assert [await number_of_next(subscription) for _ in range(2)] == [1, 2]


async def number_of_next(subscription: ensync.Subscription[object]) -> object:
    with anyio.fail_after(5):
        async for event in subscription:
            return cast("dict[str, object]", event.payload)["number"]
    raise AssertionError("the subscription has ended")


async def test_a_second_engine_on_the_file_is_refused(data: Path) -> None:
    async with LocalEngine(data=data) as engine:
        with pytest.raises(ensync.EnSyncGenericError, match="in use") as caught:
            async with LocalEngine(data=data):
                pytest.fail("two engines on one file")
        assert str(data) in str(caught.value)
        assert engine.create_app("still at work").app_id


async def test_a_damaged_file_is_refused(data: Path) -> None:
    await anyio.Path(data).write_text("Dear diary,\n" * 1000)
    with pytest.raises(ensync.EnSyncGenericError, match="damaged") as caught:
        async with LocalEngine(data=data):
            pytest.fail("an engine on a diary")
    assert str(data) in str(caught.value)


async def test_a_full_disk_refuses_publishing_and_loses_nothing(data: Path) -> None:
    async with LocalEngine(data=data) as engine:
        app = engine.create_app("app")
        store = engine.broker.store
        assert isinstance(store, SqliteStore)
        async with connected(engine.url, app) as client:
            first = await client.publish(EVENT_NAME, [app.app_id], {"number": 0})
            limit_pages(store, 1)  # no more than there are
            with pytest.raises(ensync.EnSyncPublishError, match="disk is full") as caught:
                await client.publish(EVENT_NAME, [app.app_id], {"text": "x" * 100_000})
            assert app.app_id in caught.value.rejected
            limit_pages(store, 1_000_000)
            second = await client.publish(EVENT_NAME, [app.app_id], {"number": 1})
        for receipt in (first, second):
            found = await store.find(receipt.event_id)
            assert found is not None
            assert found.state is EventState.OPEN


@pytest.mark.parametrize("ttl", [0.001, {"is_string": False, "content": "0.001"}])
@pytest.mark.parametrize("durable", [False, True])
async def test_an_event_is_not_handed_out_after_its_time_to_live(
    data: Path, durable: bool, ttl: object
) -> None:
    async with LocalEngine(data=data if durable else None) as engine:
        app = engine.create_app("app")
        async with connected(engine.url, app) as client:
            await client.publish(EVENT_NAME, [app.app_id], {"number": 0}, {"ttl": ttl})
            with anyio.fail_after(5):
                while not engine.statistics().expired:
                    await anyio.lowlevel.checkpoint()
            await client.publish(EVENT_NAME, [app.app_id], {"number": 1}, {"ttl": 3600})
            async with client.subscribe(EVENT_NAME) as subscription:
                assert await number_of_next(subscription) == 1


@pytest.mark.parametrize("ttl", [0, -1, "soon", True, [], 1e300, {"content": "x"}])
async def test_a_time_to_live_is_a_number_of_seconds(ttl: object) -> None:
    async with LocalEngine() as engine:
        app = engine.create_app("app")
        async with connected(engine.url, app) as client:
            with pytest.raises(ensync.EnSyncPublishError, match="ttl must be a number of seconds"):
                await client.publish(EVENT_NAME, [app.app_id], {}, {"ttl": ttl})


def limit_pages(store: SqliteStore, pages: int) -> None:
    store._file.connection.execute(f"PRAGMA max_page_count = {pages}")
