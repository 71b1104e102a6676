"""What a client sees of faults in an engine, and what is true on the engine's side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import anyio
import pytest

import ensync
from ensync.options import Reconnect
from ensync.server.local import LocalEngine
from ensync.testing import FaultProxy, Faults
from tests.unit.testing.echo import within

pytestmark = pytest.mark.anyio

NAME = "orders/updated"
GRPC_ONLY = pytest.mark.parametrize("site", ["grpc"], indirect=True)
SOON = Reconnect(initial=0.005, maximum=0.02, max_attempts=None)


class Site(NamedTuple):
    """An engine with faults, reached over one transport."""

    engine: LocalEngine
    faults: Faults
    url: str
    app_key: str
    secret_key: str

    def connect(self, **options: Any) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
        options = {"reconnect": SOON, "request_timeout": 10.0, **options}
        return ensync.connect(
            self.url, app_key=self.app_key, app_secret_key=self.secret_key, **options
        )

    @property
    def stored(self) -> int:
        return self.engine.statistics().published


@pytest.fixture(params=["grpc", "websocket"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    faults = Faults()
    async with LocalEngine(hooks=faults) as engine:
        app = engine.create_app("shop")
        url = engine.url if request.param == "grpc" else engine.websocket_url
        yield Site(engine, faults, url, app.app_key, app.secret_key)


async def publish(client: ensync.EnSyncClient, payload: object, **options: Any) -> None:
    await client.publish(NAME, [client.app_id], payload, **options)


async def outcome(client: ensync.EnSyncClient, **options: Any) -> str:
    """How a publish ended, of the three ways."""
    try:
        await publish(client, "x", **options)
    except ensync.EnSyncPublishError as error:
        return "unknown" if error.unknown else f"rejected: {error.rejected[client.app_id]}"
    return "accepted"


async def next_payload(subscription: ensync.Subscription[Any]) -> object:
    async for event in subscription:
        return event.payload
    raise AssertionError("the subscription ended")


# Requests


async def test_dropping_a_request_and_dropping_a_reply(site: Site) -> None:
    with within():
        async with site.connect() as client:
            site.faults.drop_request("publish")
            assert await outcome(client, timeout=1.0) == "unknown"
            assert site.stored == 0
            assert await outcome(client) == "accepted"  # by a new link, where replies are in order
            site.faults.drop_reply("publish")
            assert await outcome(client, timeout=1.0) == "unknown"
            assert site.stored == 2
            assert await outcome(client) == "accepted"


async def test_refusing(site: Site) -> None:
    with within():
        async with site.connect() as client:
            site.faults.refuse_next("publish", "not today")
            assert "not today" in await outcome(client)
            assert site.stored == 0
            assert await outcome(client) == "accepted"


@pytest.mark.parametrize("after_commit", [False, True])
async def test_aborting_the_connection(site: Site, after_commit: bool) -> None:
    with within():
        async with site.connect() as client:
            site.faults.abort_next("publish", after_commit=after_commit)
            assert await outcome(client) == "unknown"
            assert site.stored == int(after_commit)
            assert await outcome(client) == "accepted"


@pytest.mark.parametrize("after_commit", [False, True])
async def test_failing_by_a_status(site: Site, after_commit: bool) -> None:
    with within():
        async with site.connect() as client:
            site.faults.fail_next("publish", status="UNAVAILABLE", after_commit=after_commit)
            assert await outcome(client) != "accepted"
            assert site.stored == int(after_commit)


async def test_resetting_the_stream_of_a_call(site: Site) -> None:
    with within():
        async with site.connect() as client:
            site.faults.reset_next("publish", after_commit=True)
            assert await outcome(client) != "accepted"
            assert site.stored == 1
            assert await outcome(client) == "accepted"


async def test_holding_a_reply(site: Site) -> None:
    with within():
        async with site.connect() as client, anyio.create_task_group() as tasks:
            rule = site.faults.hold("publish", after_commit=True)
            tasks.start_soon(publish, client, "x")
            await rule.wait()
            assert site.stored == 1
            rule.cancel()


@GRPC_ONLY  # a WebSocket's heartbeats are pings, which no door sees
async def test_swallowed_heartbeats_lose_the_link(site: Site) -> None:
    with within():
        async with site.connect(heartbeat_interval=0.05, request_timeout=0.1) as client:
            rule = site.faults.swallow_heartbeats()
            await site.faults.wait_calls("connect", 2)
            rule.cancel()
            assert await outcome(client, timeout=2.0) == "accepted"


# Deliveries


async def test_a_duplicate_is_shown_once(site: Site) -> None:
    with within():
        async with site.connect() as client, client.subscribe(NAME) as subscription:
            site.faults.duplicate_delivery()
            await publish(client, 1)
            await publish(client, 2)
            assert [await next_payload(subscription) for _ in range(2)] == [1, 2]
            assert site.faults.happened == {"duplicate_delivery": 1}


async def test_a_lost_delivery_comes_with_the_next_connection(site: Site) -> None:
    with within():
        async with site.connect() as client, client.subscribe(NAME) as subscription:
            rule = site.faults.drop_delivery()
            await publish(client, 1)
            await rule.wait()
            site.faults.abort_connections()
            assert await next_payload(subscription) == 1


@GRPC_ONLY  # a WebSocket has no stream for each subscription
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("status", ["OK", "CANCELLED", "UNKNOWN", "INTERNAL", "UNAVAILABLE"])
async def test_ended_streams_are_opened_again(site: Site, status: str, reset: bool) -> None:
    with within():
        async with site.connect() as client, client.subscribe(NAME) as subscription:
            await site.faults.wait_streams(1)
            assert site.faults.end_streams(status, reset=reset, event_name=NAME) == 1
            await publish(client, 1)
            assert await next_payload(subscription) == 1
            assert site.faults.calls("subscribe") >= 2
            assert site.faults.calls("connect") == 1


# Connections

ENDS: list[Callable[[Faults], None]] = [
    lambda faults: faults.goaway(),
    lambda faults: faults.goaway(error=True),
    lambda faults: faults.abort_connections(),
]


@pytest.mark.parametrize("end", ENDS)
async def test_clients_come_back_after_an_ended_connection(
    site: Site, end: Callable[[Faults], None]
) -> None:
    with within():
        async with site.connect() as client, client.subscribe(NAME) as subscription:
            end(site.faults)
            await site.faults.wait_calls("subscribe", 2)
            await publish(client, 1)
            assert await next_payload(subscription) == 1


async def test_frozen_connections_are_noticed(site: Site) -> None:
    with within():
        async with site.connect(heartbeat_interval=0.05, request_timeout=0.1) as client:
            site.faults.freeze_connections()
            await site.faults.wait_calls("connect", 2)
            assert await outcome(client, timeout=2.0) == "accepted"


# Together


async def test_clients_go_through_the_proxy(site: Site) -> None:
    with within():
        async with (
            FaultProxy(site.url) as proxy,
            site._replace(url=proxy.url).connect() as client,
            client.subscribe(NAME) as subscription,
        ):
            proxy.reset()
            await proxy.wait_accepted(2)
            await site.faults.wait_calls("subscribe", 2)
            await publish(client, 1)
            assert await next_payload(subscription) == 1


async def test_random_faults_lose_nothing(site: Site) -> None:
    with anyio.fail_after(20):
        async with (
            site.connect(request_timeout=0.2) as client,
            client.subscribe(NAME) as subscription,
        ):
            rule = site.faults.random(20, 0.05)
            accepted = [number for number in range(100) if await accepts(client, number)]
            rule.cancel()
            missing = set[object](accepted)
            async for event in subscription:
                missing.discard(event.payload)
                if not missing:
                    break
    assert len(accepted) > 50
    assert rule.happened > 5


async def accepts(client: ensync.EnSyncClient, payload: object) -> bool:
    try:
        await publish(client, payload, timeout=0.5)
    except ensync.EnSyncPublishError:
        return False
    return True
