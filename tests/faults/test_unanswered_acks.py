"""Acknowledgements of one name that the engine leaves unanswered stop nothing else."""

from __future__ import annotations

import anyio
import pytest

import ensync
from ensync.testing import FaultProxy, Faults
from tests.conformance.harness import PATIENCE, Target, take_one, unsettled

pytestmark = pytest.mark.anyio

# More than all the places that an engine grants.
STUCK_EVENTS = 150
HEARTBEAT = 0.5


async def handle(_event: ensync.Event[object]) -> None:
    """Done with it at once."""


async def fill(client: ensync.EnSyncClient, name: str) -> None:
    """Publishes more events than there are places."""
    events = [ensync.OutgoingEvent(name, [client.app_id], 1)] * STUCK_EVENTS
    async with client.publish_many(events) as outcomes:
        async for outcome in outcomes:
            outcome.unwrap()


@pytest.mark.parametrize("transport", ["grpc"])
@pytest.mark.parametrize("clients", [1, 2])
async def test_everything_else_goes_on(
    proxied: Target, proxy: FaultProxy, faults: Faults, event_name: str, clients: int
) -> None:
    stuck = faults.drop_request("acknowledge", count=None, event_name="stuck")
    with anyio.fail_after(3 * PATIENCE):
        async with (
            ensync.EnSyncEngine(
                proxied.url, heartbeat_interval=HEARTBEAT, drain_timeout=0.1
            ) as engine,
            engine.create_client(
                proxied.keys.app_key, app_secret_key=proxied.keys.secret_key
            ) as client,
            engine.create_client(
                proxied.other_keys.app_key, app_secret_key=proxied.other_keys.secret_key
            ) as other,
            client.subscribe("stuck") as first,
            other.subscribe("stuck") as second,
            client.subscribe(event_name, auto_ack=False) as fine,
            anyio.create_task_group() as tasks,
        ):
            for each, subscription in [(client, first), (other, second)][:clients]:
                tasks.start_soon(subscription.for_each, handle)
                await fill(each, "stuck")
            await stuck.wait(60)
            await anyio.wait_all_tasks_blocked()
            until = anyio.current_time() + 3 * HEARTBEAT
            published = 0
            while anyio.current_time() < until or not published:
                await client.publish(event_name, [client.app_id], published)
                event = await take_one(fine)
                assert (await event.ack()).action == "acknowledged"
                published += 1
            assert proxy.accepted_total == 1
            stuck.cancel()
            tasks.cancel_scope.cancel()
    assert await unsettled(proxied, event_name) == []


@pytest.mark.parametrize("transport", ["websocket"])
async def test_where_replies_come_in_order_the_link_is_reset_in_time(
    target: Target, faults: Faults, event_name: str
) -> None:
    unanswered = faults.drop_request("acknowledge", event_name="stuck")
    with anyio.fail_after(3 * PATIENCE):
        async with (
            target.connect(
                heartbeat_interval=HEARTBEAT,
                request_timeout=1.0,
                reconnect=ensync.Reconnect(initial=0.01, maximum=0.05, max_attempts=None),
            ) as client,
            client.subscribe("stuck") as stuck,
            client.subscribe(event_name) as fine,
        ):
            await client.publish("stuck", [client.app_id], 1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stuck.for_each, handle)
                await unanswered.wait()
                async for state in client.states():
                    if state is ensync.ClientState.RECONNECTING:
                        break
                tasks.cancel_scope.cancel()
            await client.publish(event_name, [client.app_id], 2, timeout=PATIENCE)
            assert (await take_one(fine)).payload == 2
