"""A client that reads slowly is not sent what somebody else has settled by then."""

from __future__ import annotations

import anyio
import pytest

from ensync.server.hooks import DoorCall, DoorHooks
from ensync.server.store import StoredEvent
from tests.conformance.harness import PATIENCE, opened, publish_all
from tests.unit.server.grpc_client import until

pytestmark = pytest.mark.anyio


class SlowReader(DoorHooks):
    """Takes the first event of a batch, and no more for a while."""

    def __init__(self) -> None:
        self.has_begun = self.may_go_on = False

    async def before_delivery(self, call: DoorCall, stored: StoredEvent) -> int:
        self.has_begun = True
        await until(lambda: self.may_go_on)
        return 1


async def test_what_is_settled_meanwhile_is_not_sent_any_more(transport: str) -> None:
    hooks = SlowReader()
    async with (
        opened(transport, hooks=hooks) as (target, engine),
        target.connect() as client,
    ):
        idems = await publish_all(client, "orders", range(3))
        seen: list[str] = []
        with anyio.fail_after(PATIENCE):
            async with client.subscribe("orders", auto_ack=False) as subscription:
                await until(lambda: hooks.has_begun)
                # Another client of the app, which had the second before its link was lost.
                broker = engine.broker
                other = broker.connect(target.keys.app_key, "another connection").client_id
                found = await broker.store.find(idems[1])
                assert found is not None
                await broker.ack(other, idems[1], found.stored.block, "orders")
                hooks.may_go_on = True
                async for event in subscription:
                    seen.append(event.idem)
                    await event.ack()
                    if event.payload == 2:
                        break
    assert seen == [idems[0], idems[2]]
