"""The engine on a data file, as a client sees it."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import anyio.lowlevel
import pytest

import ensync
from ensync.server import websocket_connection
from ensync.server.apps import App
from ensync.server.broker import Broker, Publication
from ensync.server.local import LocalEngine
from ensync.server.refusal import Refusal
from ensync.server.sqlite import SqliteStore
from ensync.server.sqlite_tables import Page, PageLimit, Tables
from ensync.server.store import EventState, QueueKey, StoredEvent
from tests.unit.server.brokers import envelope
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio

EVENT_NAME = "orders/paid"
RECONNECT = ensync.Reconnect()

Url = Callable[[LocalEngine], str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def grpc_url(engine: LocalEngine) -> str:
    return engine.url


def websocket_url(engine: LocalEngine) -> str:
    return engine.websocket_url


def connected(
    url: str, app: App, reconnect: ensync.Reconnect = RECONNECT
) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
    return ensync.connect(
        url, app_key=app.app_key, app_secret_key=app.secret_key, reconnect=reconnect
    )


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
            with full_disk(store):
                with pytest.raises(ensync.EnSyncPublishError, match="disk is full") as caught:
                    await client.publish(EVENT_NAME, [app.app_id], {"text": "x" * 100_000})
                assert app.app_id in caught.value.rejected
            second = await client.publish(EVENT_NAME, [app.app_id], {"number": 1})
        for receipt in (first, second):
            found = await store.find(receipt.event_id)
            assert found is not None
            assert found.state is EventState.OPEN


@contextmanager
def unwritable_files() -> Iterator[None]:
    """No file of this process can grow or change, as if its disk had failed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_disk(store: SqliteStore) -> Iterator[None]:
    """The file can't get any larger."""
    limit_pages(store, 1)  # no more than there are
    try:
        yield
    finally:
        limit_pages(store, 1_000_000)


async def published(client: ensync.EnSyncClient, numbers: Iterable[int]) -> list[str]:
    receipts = [
        await client.publish(EVENT_NAME, [client.app_id], {"number": number}) for number in numbers
    ]
    return [receipt.event_id for receipt in receipts]


async def states(data: Path, idems: list[str]) -> list[EventState]:
    """What the file says, when it is opened again."""
    async with LocalEngine(data=data) as engine:
        found = [await engine.broker.store.find(idem) for idem in idems]
    return [each.state for each in found if each is not None]


@pytest.mark.parametrize("url", [grpc_url, websocket_url])
async def test_while_nothing_can_be_written_all_is_refused_and_nothing_half_done(
    data: Path, url: Url
) -> None:
    async with LocalEngine(data=data) as engine:
        app = engine.create_app("app")
        async with connected(url(engine), app) as client:
            idems = await published(client, range(5))
            async with client.subscribe(EVENT_NAME, auto_ack=False) as subscription:
                events = await taken(subscription, 5)
                settle: list[Callable[[], Awaitable[object]]] = [
                    events[0].ack,
                    events[1].discard,
                    partial(events[2].defer, delay=3600),
                ]
                with unwritable_files():
                    with pytest.raises(ensync.EnSyncPublishError, match="data file") as caught:
                        await published(client, [5])
                    assert app.app_id in caught.value.rejected
                    for each in settle:
                        with pytest.raises(ensync.EnSyncSubscriptionError, match="data file"):
                            await each()
                    assert "nothing was changed" in str(caught.value)
                numbers = engine.statistics()
                assert (numbers.published, numbers.in_hand) == (5, 5)
                assert numbers.acknowledged + numbers.discarded + numbers.deferred == 0
                idems += await published(client, [5])  # goes on, with the space it has again
                for each in settle:
                    await each()
    done = [EventState.ACKNOWLEDGED, EventState.DISCARDED]
    assert await states(data, idems) == [*done, *[EventState.OPEN] * 4]


async def ack(broker: Broker, client: str, event: StoredEvent) -> None:
    await broker.ack(client, event.idem, event.block)


async def discard(broker: Broker, client: str, event: StoredEvent) -> None:
    await broker.discard(client, event.idem)


async def defer(broker: Broker, client: str, event: StoredEvent) -> None:
    await broker.defer(client, event.idem, 60_000)


@pytest.mark.parametrize("second", [ack, discard, defer])
async def test_what_two_could_not_settle_at_once_is_given_to_the_next(
    data: Path, second: Callable[[Broker, str, StoredEvent], Awaitable[object]]
) -> None:
    async with LocalEngine(data=data) as engine:
        broker, app = engine.broker, engine.create_app("app")
        asking = broker.connect(app.app_key, "asking").client_id
        consumer = await broker.subscribe(asking, EVENT_NAME)
        await broker.publish(asking, Publication(EVENT_NAME, envelope("x" * 40), app.app_id))
        [event] = await consumer.take()
        with unwritable_files():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(refused, broker.ack(asking, event.idem, event.block))
                tasks.start_soon(refused, second(broker, asking, event))
        assert engine.statistics().in_hand == 1
        await broker.connection_closed("asking")
        next_client = broker.connect(app.app_key, "next").client_id
        with anyio.fail_after(5):
            [again] = await (await broker.subscribe(next_client, EVENT_NAME)).take()
        assert again.idem == event.idem
        await broker.ack(next_client, again.idem, again.block)


async def refused(settling: Awaitable[object]) -> None:
    with pytest.raises(Refusal, match="data file"):
        await settling


async def test_a_full_disk_refuses_settling_and_loses_nothing(data: Path) -> None:
    async with LocalEngine(data=data) as engine:
        app = engine.create_app("app")
        store = engine.broker.store
        assert isinstance(store, SqliteStore)
        async with connected(engine.url, app) as client:
            idems = await published(client, range(20))
            async with client.subscribe(EVENT_NAME, auto_ack=False) as subscription:
                events = await taken(subscription, 20)
                with full_disk(store):
                    refused = [event for event in events if not await discarded(event)]
                assert refused, "the disk was not full"
                assert engine.statistics().in_hand == len(refused)
                for event in refused:
                    assert await discarded(event)
    assert await states(data, idems) == [EventState.DISCARDED] * 20


async def discarded(event: ensync.Event[object]) -> bool:
    try:
        await event.discard(reason="x" * 1000)  # takes room
    except ensync.EnSyncSubscriptionError as error:
        if "disk is full: nothing was changed" not in str(error):
            raise
        return False
    return True


async def taken(
    subscription: ensync.Subscription[object], count: int
) -> list[ensync.Event[object]]:
    events: list[ensync.Event[object]] = []
    with anyio.fail_after(5):
        async for event in subscription:
            events.append(event)
            if len(events) == count:
                break
    return events


async def test_acknowledgements_of_a_loop_that_are_refused_bring_the_events_again(
    data: Path,
) -> None:
    async with LocalEngine(data=data) as engine:
        app = engine.create_app("app")
        async with connected(engine.url, app) as client:
            idems = await published(client, range(3))
            with unwritable_files():
                async with client.subscribe(EVENT_NAME) as subscription:
                    assert [await number_of_next(subscription) for _ in range(3)] == [0, 1, 2]
            async with client.subscribe(EVENT_NAME) as subscription:
                assert [await number_of_next(subscription) for _ in range(3)] == [0, 1, 2]
    assert await states(data, idems) == [EventState.ACKNOWLEDGED] * 3


@pytest.mark.parametrize("url", [grpc_url, websocket_url])
async def test_a_damaged_queue_does_no_harm_to_others_and_goes_on_when_it_is_repaired(
    data: Path, url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_connection, "_TIME_TO_READ_AGAIN", 0.01)
    often = ensync.Reconnect(initial=0.01, maximum=0.01, max_attempts=None)
    async with LocalEngine(data=data) as engine:
        app = engine.create_app("app")
        async with connected(url(engine), app, often) as client:
            await client.publish("damaged", [app.app_id], {"number": 1})
            await client.publish("good", [app.app_id], {"number": 2})
            with ExitStack() as damage:
                attempts = damage.enter_context(damaged_queue("damaged"))
                async with client.subscribe("damaged") as damaged, client.subscribe("good") as good:
                    assert await number_of_next(good) == 2
                    await until(lambda: attempts[0] >= 3)
                    damage.close()
                    assert await number_of_next(damaged) == 1


@contextmanager
def damaged_queue(name: str) -> Iterator[list[int]]:
    """Gives how often it was tried to read it."""
    attempts = [0]
    really_page = Tables.page

    def page(tables: Tables, queue: QueueKey, after_block: int, limit: PageLimit) -> Page:
        if queue.event_name != name:
            return really_page(tables, queue, after_block, limit)
        attempts[0] += 1
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorname = "SQLITE_CORRUPT"
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tables, "page", page)
        yield attempts


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
