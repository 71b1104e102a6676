"""publish(): who gets what, and its three outcomes."""

from __future__ import annotations

import anyio
import pytest

import ensync
from ensync.crypto import SecretKey
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import Keys, Target, address, take_one, unsettled

pytestmark = pytest.mark.anyio


def a_stranger() -> str:
    """The app id of an app that no engine knows."""
    return SecretKey.generate().app_id


async def test_a_receipt_for_one_recipient(client: ensync.EnSyncClient, event_name: str) -> None:
    receipt = await client.publish(event_name, [client.app_id], {"a": 1})
    assert receipt.event_name == event_name
    assert receipt.event_ids == {client.app_id: receipt.event_id}
    assert str(receipt) == receipt.event_id != ""
    assert list(receipt) == [receipt.event_id]


async def test_several_recipients_get_a_copy_each(
    client: ensync.EnSyncClient, other_client: ensync.EnSyncClient, event_name: str
) -> None:
    recipients = [other_client.app_id, client.app_id]
    async with (
        client.subscribe(event_name) as here,
        other_client.subscribe(event_name) as there,
    ):
        receipt = await client.publish(event_name, recipients, "both", {"n": 1})
        events = [await take_one(there), await take_one(here)]
    assert list(receipt.event_ids) == recipients
    assert [event.idem for event in events] == list(receipt.event_ids.values())
    assert str(receipt) == ",".join(event.idem for event in events)
    assert {event.payload for event in events} == {"both"}
    with pytest.raises(ValueError, match="2 event ids"):
        _ = receipt.event_id


async def test_a_recipient_named_twice_gets_one_copy(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    receipt = await client.publish(event_name, [client.app_id, client.app_id], 1)
    assert len(receipt.event_ids) == 1
    assert await unsettled(target, event_name) == [1]


async def test_hybrid_is_read_by_every_recipient(
    client: ensync.EnSyncClient, other_client: ensync.EnSyncClient, event_name: str
) -> None:
    recipients = (client.app_id, other_client.app_id)
    await client.publish(event_name, recipients, {"for": "all"}, encryption="hybrid")
    for reader in (client, other_client):
        async with reader.subscribe(event_name) as subscription:
            assert (await take_one(subscription)).payload == {"for": "all"}


async def test_an_event_waits_until_somebody_subscribes(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    await client.publish(event_name, [client.app_id], "early")
    assert await unsettled(target, event_name) == ["early"]


async def test_a_client_without_a_secret_key_publishes(
    target: Target, event_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENSYNC_SECRET_KEY", raising=False)
    async with ensync.connect(target.url, app_key=target.keys.app_key) as client:
        await client.publish(event_name, [client.app_id], 1)
        with pytest.raises(ensync.EnSyncValidationError, match="secret key"):
            client.subscribe(event_name)
        async with client.subscribe(
            event_name, app_secret_key=target.keys.secret_key
        ) as subscription:
            assert (await take_one(subscription)).payload == 1


async def test_reply_goes_to_the_sender(
    client: ensync.EnSyncClient, other_client: ensync.EnSyncClient, event_name: str
) -> None:
    async with (
        client.subscribe(event_name) as here,
        other_client.subscribe(event_name) as there,
    ):
        await client.publish(event_name, [other_client.app_id], "ping")
        receipt = await (await take_one(there)).reply("pong", {"hop": 2})
        answer = await take_one(here)
    assert (answer.payload, answer.metadata["hop"]) == ("pong", 2)
    assert (answer.idem, answer.sender) == (receipt.event_id, other_client.app_id)


# Rejected


async def test_an_unknown_recipient_is_rejected_and_the_others_accepted(
    client: ensync.EnSyncClient, target: Target, event_name: str
) -> None:
    stranger = a_stranger()
    with pytest.raises(ensync.EnSyncPublishError) as caught:
        await client.publish(event_name, [client.app_id, stranger], 1)
    error = caught.value
    assert list(error.accepted) == [client.app_id]
    assert list(error.rejected) == [stranger]
    assert not error.unknown
    assert error.event_name == event_name
    assert "accepted for 1, rejected for 1" in str(error)
    assert await unsettled(target, event_name) == [1]


async def test_an_app_without_permission_is_rejected(transport: str, engine: LocalEngine) -> None:
    keys = Keys.of(engine.create_app("reader", send=["allowed"]))
    async with Target(address(engine, transport), keys, keys).connect() as client:
        await client.publish("allowed", [client.app_id], 1)
        with pytest.raises(ensync.EnSyncPublishError, match="no permission to send") as caught:
            await client.publish("forbidden", [client.app_id], 1)
    assert list(caught.value.rejected) == [client.app_id]
    assert not caught.value.retryable
    assert engine.statistics().published == 1


# Unknown


async def test_no_answer_means_unknown(
    client: ensync.EnSyncClient, faults: Faults, target: Target, event_name: str
) -> None:
    faults.drop_reply("publish")
    with pytest.raises(ensync.EnSyncPublishError, match="unknown for 1") as caught:
        await client.publish(event_name, [client.app_id], "stored", timeout=0.2)
    error = caught.value
    assert list(error.unknown) == [client.app_id]
    assert isinstance(error.unknown[client.app_id], ensync.EnSyncConnectionError)
    assert not error.retryable
    # What was reported as unknown was, in this case, stored; and it is not sent again.
    assert await unsettled(target, event_name) == ["stored"]


async def test_a_lost_link_means_unknown_and_the_next_publish_waits_for_a_link(
    target: Target, faults: Faults, event_name: str
) -> None:
    reconnect = ensync.Reconnect(initial=0.01, maximum=0.01)
    async with target.connect(reconnect=reconnect) as client:
        faults.abort_next("publish", after_commit=True)
        with pytest.raises(ensync.EnSyncPublishError) as caught:
            await client.publish(event_name, [client.app_id], "first")
        assert list(caught.value.unknown) == [client.app_id]
        await client.publish(event_name, [client.app_id], "second")
    assert await unsettled(target, event_name) == ["first", "second"]


# Many at once


async def test_publishes_of_many_tasks_go_out_together(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    held = faults.hold("publish", count=None)
    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(client.publish, event_name, [client.app_id], n)
        # All of them are under way before the first is answered.
        await faults.wait_calls("publish", 20)
        held.cancel()


async def test_a_cancelled_publish_leaves_the_client_usable(
    target: Target, faults: Faults, event_name: str
) -> None:
    reconnect = ensync.Reconnect(initial=0.01, maximum=0.01)
    async with target.connect(reconnect=reconnect) as client:
        held = faults.hold("publish")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.publish, event_name, [client.app_id], "cancelled")
            await faults.wait_calls("publish", 1)
            tasks.cancel_scope.cancel()
        held.cancel()
        receipt = await client.publish(event_name, [client.app_id], "next")
        assert receipt.event_id
