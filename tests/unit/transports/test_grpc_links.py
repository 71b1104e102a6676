"""What a client's link over gRPC opens, and what it does not."""

from __future__ import annotations

import anyio
import pytest

from ensync.address import parse_address
from ensync.connection import Connection
from ensync.errors import EnSyncConnectionError
from ensync.server.local import LocalEngine
from ensync.testing import FaultProxy
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
