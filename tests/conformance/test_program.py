"""The program of the README's first page, as it stands."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

import ensync
from ensync.server.local import LocalEngine
from tests.conformance.harness import Target, address, take_one

pytestmark = pytest.mark.anyio

SEEN: list[tuple[object, str]] = []


async def program() -> None:
    async with ensync.connect() as client:
        receipt = await client.publish(
            "orders/status/updated",
            [client.app_id],
            {"order_id": "order-123"},
            {"source": "web"},
        )
        async with client.subscribe("orders/status/updated") as subscription:
            async for event in subscription:
                SEEN.append((event.payload, event.sender))
                assert event.idem == receipt.event_id
                assert event.metadata["source"] == "web"
                break


@pytest.fixture
def environment(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSYNC_URL", target.url)
    monkeypatch.setenv("ENSYNC_APP_KEY", target.keys.app_key)
    monkeypatch.setenv("ENSYNC_SECRET_KEY", target.keys.secret_key)


@pytest.mark.usefixtures("environment")
async def test_the_program_runs_as_it_stands(target: Target, engine: LocalEngine) -> None:
    SEEN.clear()
    await program()
    assert [({"order_id": "order-123"}, target.keys.app_id)] == SEEN
    assert engine.statistics().acknowledged == 1


async def engine_and_program(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalEngine() as engine:
        app = engine.create_app("shop")
        monkeypatch.setenv("ENSYNC_URL", address(engine, transport))
        monkeypatch.setenv("ENSYNC_APP_KEY", app.app_key)
        monkeypatch.setenv("ENSYNC_SECRET_KEY", app.secret_key)
        await program()


@pytest.mark.parametrize(
    ("backend", "options"),
    [("asyncio", {"loop_factory": asyncio.SelectorEventLoop}), ("trio", {})],
    ids=["by-asyncio", "by-trio"],
)
def test_it_runs_by_anyio_run(
    backend: str, options: dict[str, Any], transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SEEN.clear()
    anyio.run(engine_and_program, transport, monkeypatch, backend=backend, backend_options=options)
    assert len(SEEN) == 1


def test_it_runs_by_asyncio_run(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tells callbacks less of where they run than anyio.run() does."""
    SEEN.clear()
    asyncio.run(engine_and_program(transport, monkeypatch))
    assert len(SEEN) == 1


async def test_an_engine_serves_several_clients(target: Target, event_name: str) -> None:
    async with (
        ensync.EnSyncEngine(target.url) as engine,
        engine.create_client(target.keys.app_key, app_secret_key=target.keys.secret_key) as client,
        engine.create_client(
            target.other_keys.app_key, app_secret_key=target.other_keys.secret_key
        ) as other,
    ):
        assert client.client_id != other.client_id
        assert (client.app_id, other.app_id) == (target.keys.app_id, target.other_keys.app_id)
        await client.publish(event_name, [other.app_id], 1)
        async with other.subscribe(event_name) as subscription:
            async for event in subscription:
                assert (event.sender, event.recipient) == (client.app_id, other.app_id)
                break


async def test_the_websocket_engine_takes_a_websocket_url(engine: LocalEngine) -> None:
    app = engine.create_app("shop")
    async with (
        ensync.EnSyncWebSocketEngine(engine.websocket_url) as over_websocket,
        over_websocket.create_client(app.app_key) as client,
    ):
        assert client.app_id == app.app_id
    with pytest.raises(ensync.EnSyncValidationError, match="gRPC address"):
        ensync.EnSyncWebSocketEngine(engine.url)


async def test_states_end_with_closed(target: Target) -> None:
    states: list[ensync.ClientState] = []
    started = anyio.Event()

    async def watch(client: ensync.EnSyncClient) -> None:
        async for state in client.states():
            states.append(state)
            started.set()

    async with anyio.create_task_group() as tasks, target.connect() as client:
        tasks.start_soon(watch, client)
        await started.wait()
        assert client.state is ensync.ClientState.CONNECTED
    assert states == [ensync.ClientState.CONNECTED, ensync.ClientState.CLOSED]
    assert client.state is ensync.ClientState.CLOSED


async def test_a_client_can_be_left_and_made_again(target: Target) -> None:
    ids: set[str] = set()
    for _ in range(3):
        async with target.connect() as client:
            ids.add(client.client_id)
    assert len(ids) == 3


async def test_after_its_block_a_client_says_that_it_is_closed(
    target: Target, event_name: str
) -> None:
    async with target.connect() as client:
        pass
    with pytest.raises(ensync.EnSyncPublishError, match="closed") as caught:
        await client.publish(event_name, [client.app_id], 1)
    assert list(caught.value.rejected) == [client.app_id]
    with pytest.raises(ensync.EnSyncConnectionError, match="closed"):
        async with client.subscribe(event_name):
            pass


async def test_an_engine_is_entered_once(target: Target) -> None:
    engine = ensync.EnSyncEngine(target.url)
    with pytest.raises(ensync.EnSyncGenericError, match="not open"):
        async with engine.create_client(target.keys.app_key):
            pass
    async with engine:
        with pytest.raises(ensync.EnSyncGenericError, match="in use"):
            await engine.__aenter__()


async def test_no_repr_shows_a_secret(target: Target, event_name: str) -> None:
    engine = ensync.EnSyncEngine(target.url)
    async with (
        engine,
        engine.create_client(target.keys.app_key, app_secret_key=target.keys.secret_key) as client,
        client.subscribe(event_name) as subscription,
    ):
        await client.publish(event_name, [client.app_id], "a payload in plain")
        event = await take_one(subscription)
        shown = f"{engine!r} {client!r} {subscription!r} {event!r}"
        for secret in (target.keys.app_key, target.keys.secret_key, "a payload in plain"):
            assert secret not in shown
