"""An engine that ends in an orderly way costs nobody an answer.

A WebSocket's close does not tell what was heard before it, as HTTP/2's GOAWAY does:
what has no answer is unknown there.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

import ensync
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import PATIENCE, Target

pytestmark = pytest.mark.anyio

PUBLISHERS = 8
FAREWELLS = 10
RECONNECT = ensync.Reconnect(initial=0.001, maximum=0.01, max_attempts=None)


async def test_every_publish_under_way_is_answered(
    target: Target, transport: str, faults: Faults, engine: LocalEngine, event_name: str
) -> None:
    published, unknown, left = 0, 0, False

    async def publish_until_left() -> None:
        nonlocal published, unknown
        while not left:
            try:
                await client.publish(event_name, [client.app_id], {"number": published})
            except ensync.EnSyncPublishError as error:
                assert transport == "websocket"
                unknown += len(error.unknown)
            else:
                published += 1

    async def go_away_again_and_again() -> None:
        nonlocal left
        farewells = 0
        async for state in client.states():
            if state is not ensync.ClientState.CONNECTED:
                continue
            if farewells == FAREWELLS:
                break
            seen = published
            while published < seen + PUBLISHERS:
                await anyio.lowlevel.checkpoint()
            faults.goaway()
            farewells += 1
        left = True

    with anyio.fail_after(3 * PATIENCE):
        async with target.connect(reconnect=RECONNECT) as client, anyio.create_task_group() as all_:
            all_.start_soon(go_away_again_and_again)
            for _ in range(PUBLISHERS):
                all_.start_soon(publish_until_left)
    assert published <= engine.statistics().published <= published + unknown
