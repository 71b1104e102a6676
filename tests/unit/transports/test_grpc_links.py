"""What a client's link over gRPC opens, and what it does not."""

from __future__ import annotations

import anyio
import pytest

from ensync.address import parse_address
from ensync.connection import Connection
from ensync.crypto import SecretKey
from ensync.errors import EnSyncConnectionError, EnSyncError
from ensync.server.local import LocalEngine
from ensync.testing import FaultProxy, Faults
from ensync.transports.base import Outcome, Publish
from ensync.transports.bridge import AsyncioSide, open_asyncio_side
from ensync.transports.grpc import GrpcTransport

pytestmark = pytest.mark.anyio


async def over_grpc(url: str, side: AsyncioSide) -> GrpcTransport:
    return GrpcTransport(parse_address(url), side, tls=None, generation=None, http2="auto")


async def test_a_lost_link_opens_no_connection_for_a_subscription() -> None:
    connection = Connection()
    async with (
        LocalEngine() as engine,
        FaultProxy(engine.url) as proxy,
        open_asyncio_side() as side,
    ):
        transport = await side.run(over_grpc, proxy.url, side)
        link = await side.run(transport.open_link, connection.lose)
        await side.run(link.authenticate, engine.create_app("app").app_key)
        with anyio.fail_after(10):
            proxy.reset()
            await connection.wait_lost()
            with pytest.raises(EnSyncConnectionError, match="was lost"):
                await side.run(link.subscribe, "orders/placed", print, print)
        assert proxy.accepted_total == 1
        await side.run(transport.aclose)


async def test_a_connection_that_did_not_answer_is_not_used_again_before_it_does() -> None:
    """What one client found dead may have been the first of a shared one's connections only."""
    lost = Connection()
    async with (
        LocalEngine() as engine,
        FaultProxy(engine.url) as proxy,
        open_asyncio_side() as side,
    ):
        app_key = engine.create_app("app").app_key
        transport = await side.run(over_grpc, proxy.url, side)
        first = await side.run(transport.open_link, lost.lose)
        await side.run(first.authenticate, app_key)
        proxy.stall()
        silent = await side.run(transport.open_link, lost.lose)
        with anyio.move_on_after(0.1):
            await side.run(silent.authenticate, app_key)
        assert proxy.accepted_total == 1
        proxy.heal()
        with anyio.fail_after(10):
            other = await side.run(transport.open_link, lost.lose)
            await side.run(other.authenticate, app_key)
            await proxy.wait_accepted(2)
        for link in (first, silent, other):
            await side.run(link.aclose)
        await side.run(transport.aclose)


async def test_what_was_not_sent_when_a_link_is_left_is_never_sent() -> None:
    streams, requests = 4, 9
    faults = Faults()
    answers: list[Outcome | EnSyncError] = []
    publish = Publish("orders", SecretKey.generate().app_id, "cGF5", "{}", None)
    async with (
        LocalEngine(max_concurrent_streams=streams, hooks=faults) as engine,
        open_asyncio_side() as side,
    ):
        app_key = engine.create_app("shop").app_key
        transport = await side.run(over_grpc, engine.url, side)
        first = await side.run(transport.open_link, Connection().lose)
        second = await side.run(transport.open_link, Connection().lose)
        for link in (first, second):
            await side.run(link.authenticate, app_key)
        faults.hold("publish", count=None)
        calls = [first.send(publish, answers.append) for _ in range(requests)]
        with anyio.fail_after(10):
            await faults.wait_calls("publish", streams - 1)
        await side.run(first.aclose)
        assert [type(answer) for answer in answers] == [EnSyncConnectionError] * requests
        assert sum(call.sent for call in calls) == streams - 1
        faults.heal()
        answered = anyio.Event()
        second.send(publish, lambda _answer: answered.set())
        with anyio.fail_after(10):
            await answered.wait()
        assert faults.calls("publish") == streams
        await side.run(second.aclose)
        await side.run(transport.aclose)
