"""No silent death: however a stream ends, the next event arrives or the iterator raises."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from websockets.asyncio.server import ServerConnection

import ensync
from ensync.testing import FaultProxy, Faults, RestartableEngine
from ensync.testing.acts import STATUSES
from tests.conformance.harness import PATIENCE, Keys, Target, take_one, unsettled
from tests.unit.transports.scripted_engine import ScriptedEngine, scripted_engine

pytestmark = pytest.mark.anyio

SOON = ensync.Reconnect(initial=0.005, maximum=0.02, max_attempts=None)

# What no later attempt could change ends the subscription; all else is tried again.
LASTING = {"INVALID_ARGUMENT", "PERMISSION_DENIED", "UNIMPLEMENTED"}


class Watched:
    """A subscription that somebody waits on while its stream ends."""

    def __init__(self, subscription: ensync.Subscription[Any]) -> None:
        self._subscription = subscription
        self.asking = anyio.Event()
        self.result: object = None

    async def wait(self) -> None:
        self.asking.set()
        try:
            self.result = (await take_one(self._subscription)).payload
        except ensync.EnSyncError as error:
            self.result = error


@asynccontextmanager
async def waiting(target: Target, name: str) -> AsyncIterator[tuple[ensync.EnSyncClient, Watched]]:
    """A client with a loop that waits for an event; it has got one when the block is left."""
    with anyio.fail_after(PATIENCE):
        async with (
            target.connect(reconnect=SOON, drain_timeout=0.1) as client,
            client.subscribe(name) as subscription,
        ):
            watched = Watched(subscription)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watched.wait)
                await watched.asking.wait()
                await anyio.wait_all_tasks_blocked()
                yield client, watched


# A stream ends, and its connection goes on (gRPC only: a WebSocket has no streams)


@pytest.mark.parametrize("transport", ["grpc"])
@pytest.mark.parametrize("status", STATUSES)
async def test_a_stream_that_ends_by_a_status(
    target: Target, faults: Faults, event_name: str, status: str
) -> None:
    async with waiting(target, event_name) as (client, watched):
        await faults.wait_streams(1)
        assert faults.end_streams(status) == 1
        if status not in LASTING:
            await client.publish(event_name, [client.app_id], status)
    if status in LASTING:
        assert isinstance(watched.result, ensync.EnSyncSubscriptionError)
        assert status in str(watched.result)
    else:
        assert watched.result == status


@pytest.mark.parametrize("transport", ["grpc"])
async def test_a_stream_that_is_reset(target: Target, faults: Faults, event_name: str) -> None:
    async with waiting(target, event_name) as (client, watched):
        await faults.wait_streams(1)
        assert faults.end_streams(reset=True) == 1
        await client.publish(event_name, [client.app_id], "after")
    assert watched.result == "after"


@pytest.mark.parametrize("transport", ["grpc"])
async def test_pausing_and_going_on_while_the_stream_ends(
    target: Target, faults: Faults, event_name: str
) -> None:
    soon = ensync.Reconnect(initial=0.001, maximum=0.001)
    with anyio.fail_after(PATIENCE):
        async with (
            target.connect(reconnect=soon) as client,
            client.subscribe(event_name) as subscription,
        ):
            for _ in range(20):
                await faults.wait_streams(1)
                faults.end_streams()
                # The engine has forgotten the subscription, and this client has not heard it.
                await subscription.pause()
                await faults.wait_streams(1)
                faults.end_streams()
                await subscription.resume()
            await client.publish(event_name, [client.app_id], "after")
            assert (await take_one(subscription)).payload == "after"


@pytest.mark.parametrize("transport", ["grpc"])
async def test_a_stream_that_ends_in_place_of_the_next_event(
    target: Target, faults: Faults, event_name: str
) -> None:
    async with waiting(target, event_name) as (client, watched):
        faults.fail_next("delivery", status="INTERNAL")
        await client.publish(event_name, [client.app_id], "the same")
    assert watched.result == "the same"
    assert faults.calls("delivery") == 2


async def test_a_body_that_is_cancelled_after_its_subscription_has_failed(
    target: Target, faults: Faults, event_name: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with target.connect(reconnect=SOON) as client:
            await client.publish(event_name, [client.app_id], "not done")
            async with client.subscribe(event_name) as subscription:
                with anyio.CancelScope() as scope:
                    async for _ in subscription:
                        faults.refuse_next("subscribe")
                        faults.abort_connections()
                        with pytest.raises(ensync.EnSyncSubscriptionError, match="refuse"):
                            await take_one(subscription)
                        scope.cancel()
                        await anyio.sleep_forever()
        assert await unsettled(target, event_name) == ["not done"]


@pytest.mark.parametrize("transport", ["grpc"])
async def test_a_stream_that_ends_again_and_again_until_the_client_gives_up(
    target: Target, faults: Faults, event_name: str
) -> None:
    three = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=3)
    with anyio.fail_after(PATIENCE):
        async with (
            target.connect(reconnect=three) as client,
            client.subscribe(event_name) as subscription,
        ):
            faults.fail_next("subscribe", status="INTERNAL", count=None)
            await faults.wait_streams(1)
            faults.end_streams("INTERNAL")
            with pytest.raises(ensync.EnSyncSubscriptionError, match="gave up after 3 attempts"):
                await take_one(subscription)
            # The link is none the worse for it.
            await client.publish(event_name, [client.app_id], 1)
    assert faults.calls("connect") == 1


@pytest.mark.parametrize("transport", ["grpc"])
@pytest.mark.parametrize("status", ["INTERNAL", "UNAVAILABLE", "NOT_FOUND"])
async def test_entering_a_subscription_outlasts_a_passing_failure(
    target: Target, faults: Faults, event_name: str, status: str
) -> None:
    faults.fail_next("subscribe", status=status, count=2)
    async with waiting(target, event_name) as (client, watched):
        # Entered means registered: the engine has accepted it by now.
        assert (faults.calls("subscribe"), faults.streams) == (3, 1)
        await client.publish(event_name, [client.app_id], "after")
    assert watched.result == "after"


@pytest.mark.parametrize("transport", ["grpc"])
@pytest.mark.parametrize("reset", [False, True])
async def test_entering_a_subscription_that_goes_on_failing_raises(
    target: Target, faults: Faults, event_name: str, reset: bool
) -> None:
    three = ensync.Reconnect(initial=0.001, maximum=0.001, max_attempts=3)
    fail = faults.reset_next if reset else faults.fail_next
    fail("subscribe", count=None)
    with anyio.fail_after(PATIENCE):
        async with target.connect(reconnect=three) as client:
            with pytest.raises(ensync.EnSyncError, match="gave up after 3 attempts"):
                async with client.subscribe(event_name):
                    pytest.fail("it was never registered")


# A connection ends, by what the network does to it

NETWORK: dict[str, Callable[[FaultProxy], object]] = {
    "reset": FaultProxy.reset,
    "orderly end": FaultProxy.close,
    "half-close by the engine": lambda proxy: proxy.half_close("downstream"),
    "half-close by the client": lambda proxy: proxy.half_close("upstream"),
}


@pytest.mark.parametrize("end", NETWORK.values(), ids=NETWORK)
async def test_a_connection_that_the_network_ends(
    proxied: Target,
    proxy: FaultProxy,
    faults: Faults,
    event_name: str,
    end: Callable[[FaultProxy], object],
) -> None:
    async with waiting(proxied, event_name) as (client, watched):
        end(proxy)
        await faults.wait_calls("subscribe", 2)
        await client.publish(event_name, [client.app_id], "after")
    assert watched.result == "after"


async def test_a_frame_that_arrives_damaged(
    proxied: Target, target: Target, proxy: FaultProxy, faults: Faults, event_name: str
) -> None:
    async with waiting(proxied, event_name) as (_, watched), target.connect() as other:
        proxy.corrupt_next("downstream")
        await other.publish(event_name, [other.app_id], "the same")
    assert watched.result == "the same"
    assert faults.calls("subscribe") == 2


@pytest.mark.parametrize("n_bytes", [1, 8, 9, 10, 40, 200])
async def test_a_connection_that_breaks_off_inside_an_event(
    proxied: Target, target: Target, proxy: FaultProxy, event_name: str, n_bytes: int
) -> None:
    async with waiting(proxied, event_name) as (_, watched), target.connect() as other:
        proxy.cut_after(n_bytes, "downstream")
        await other.publish(event_name, [other.app_id], "the same")
    assert watched.result == "the same"


# A connection ends, by what the engine does to it

ENGINE: dict[str, Callable[[Faults], None]] = {
    "GOAWAY": Faults.goaway,
    "GOAWAY with an error": lambda faults: faults.goaway(error=True),
    "abort": Faults.abort_connections,
}


@pytest.mark.parametrize("end", ENGINE.values(), ids=ENGINE)
async def test_a_connection_that_the_engine_ends(
    target: Target, faults: Faults, event_name: str, end: Callable[[Faults], None]
) -> None:
    async with waiting(target, event_name) as (client, watched):
        end(faults)
        await faults.wait_calls("subscribe", 2)
        await client.publish(event_name, [client.app_id], "after")
    assert watched.result == "after"


@pytest.mark.parametrize("crash", [False, True], ids=["restart", "crash"])
async def test_an_engine_that_restarts(transport: str, event_name: str, crash: bool) -> None:
    async with RestartableEngine() as engine:
        keys = Keys.of(engine.create_app("shop"))
        url = engine.url if transport == "grpc" else engine.websocket_url
        async with waiting(Target(url, keys, keys), event_name) as (client, watched):
            await engine.restart(crash=crash)
            await engine.faults.wait_calls("subscribe", 2)
            await client.publish(event_name, [client.app_id], "after")
    assert watched.result == "after"


async def test_an_engine_that_comes_back_without_the_app(transport: str, event_name: str) -> None:
    async with RestartableEngine() as engine:
        keys = Keys.of(engine.create_app("shop"))
        url = engine.url if transport == "grpc" else engine.websocket_url
        async with waiting(Target(url, keys, keys), event_name) as (_, watched):
            await engine.restart(forget_apps=True)
    assert isinstance(watched.result, ensync.EnSyncAuthenticationError)


# What only a WebSocket can do

SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def engine_of_one_event(request: str) -> list[str]:
    """An engine's side of a conversation, with an event's announcement left to the test."""
    if request.startswith("CONN;"):
        return ["+PASS:{clientId=c1,clientHash=aGFzaA==}"]
    return ["+PASS:done"]


def closes(code: int) -> Callable[[ServerConnection], Awaitable[None]]:
    async def act(connection: ServerConnection) -> None:
        await connection.close(code, "as asked")

    return act


def says(message: str | bytes) -> Callable[[ServerConnection], Awaitable[None]]:
    async def act(connection: ServerConnection) -> None:
        await connection.send(message)

    return act


def writes(frame: bytes) -> Callable[[ServerConnection], Awaitable[None]]:
    async def act(connection: ServerConnection) -> None:
        connection.transport.write(frame)

    return act


WEBSOCKET_ENDS: dict[str, Callable[[ServerConnection], Awaitable[None]]] = {
    **{f"close code {code}": closes(code) for code in (1000, 1001, 1002, 1003, 1008)},
    **{f"close code {code}": closes(code) for code in (1009, 1011, 1012, 1013, 3000, 4999)},
    "close frame without a code": writes(b"\x88\x00"),
    "close frame of one byte": writes(b"\x88\x01\x03"),
    "close code that is reserved": writes(b"\x88\x02" + struct.pack("!H", 1005)),
    "binary message": says(b"\x00\x01"),
    "text of another protocol": says("HTTP/1.1 200 OK"),
    "empty text": says(""),
    "reply that nobody asked for": says("+PASS:done"),
    "refusal that nobody asked for": says("-FAIL:no"),
    "text that is no UTF-8": writes(b"\x81\x01\xff"),
    "reserved bits": writes(b"\xf1\x00"),
    "unknown opcode": writes(b"\x83\x00"),
    "masked frame": writes(b"\x81\x80abcd"),
    "frame of 2**63 bytes": writes(b"\x81\x7f" + b"\xff" * 8),
    "ping of 126 bytes": writes(b"\x89\x7e\x00\x7e" + bytes(126)),
    "continuation of nothing": writes(b"\x80\x00"),
}


async def subscribed_again(engine: ScriptedEngine) -> None:
    while sum(request.startswith("SUB;") for request in engine.received) < 2:
        await engine.until_heard(len(engine.received) + 1)


@pytest.mark.parametrize("end", WEBSOCKET_ENDS.values(), ids=WEBSOCKET_ENDS)
async def test_what_a_websocket_engine_may_say_last(
    end: Callable[[ServerConnection], Awaitable[None]],
) -> None:
    async with scripted_engine(engine_of_one_event) as engine:
        keys = Keys("k" * 16, SECRET)
        with anyio.fail_after(PATIENCE):
            async with (
                Target(engine.url, keys, keys).connect(reconnect=SOON) as client,
                client.subscribe("orders") as subscription,
            ):
                await engine.run(end)
                await subscribed_again(engine)
                await engine.say('+RECORD:{"name":"orders","idem":"i","block":1,"payload":"?"}')
                # It can't be decrypted, and it arrived.
                with pytest.raises(ensync.EnSyncInvalidEventError):
                    await take_one(subscription)
