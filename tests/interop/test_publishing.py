"""They publish, we read; we publish, they read."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from ensync.server.apps import App
from ensync.server.local import LocalEngine
from tests.interop.official import (
    SDK_033,
    SDK_033_WEBSOCKET,
    SDK_044,
    SDK_WS_043,
    OfficialSdkError,
    Sdk,
    official_client,
    started_driver,
)
from tests.interop.ours import first_event, our_client

# Not the time that it takes to make the environments, once.
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30, func_only=True)]

EVERY_SDK = pytest.mark.parametrize(
    "sdk", [SDK_033, SDK_044, SDK_033_WEBSOCKET, SDK_WS_043], ids=str
)

PAYLOAD: dict[str, Any] = {
    "text": "Grüße; EVENT_NAME=:other\n\0 \N{SNOWMAN}",
    "integer": -7,
    "long": 2**40,
    "double": 0.1,
    "boolean": True,
    "null": None,
    "object": {"nested": [1, 2, {"deep": []}]},
    "array": [],
}
METADATA: dict[str, Any] = {"source": "web; DELIVERY_TO=:nobody", "headers": {"trace": "1,2=3"}}


@EVERY_SDK
async def test_our_client_reads_what_they_publish(sdk: Sdk, engine: LocalEngine) -> None:
    theirs, ours = engine.create_app("theirs"), engine.create_app("ours")
    async with official_client(sdk, engine, theirs) as them, our_client(engine, ours) as us:
        [idem] = await them.publish("orders/paid", [ours.app_id], PAYLOAD, METADATA)
        event = await first_event(us, "orders/paid")
    assert event.idem == idem
    assert event.event_name == "orders/paid"
    assert event.payload == PAYLOAD
    assert event.metadata == METADATA
    assert event.sender == theirs.app_id


@EVERY_SDK
async def test_our_clients_read_what_they_publish_to_several_recipients(
    sdk: Sdk, engine: LocalEngine
) -> None:
    """They seal it in their own dialect of the hybrid envelope, with hexadecimal ids."""
    theirs = engine.create_app("theirs")
    recipients = [engine.create_app("first"), engine.create_app("second")]
    async with official_client(sdk, engine, theirs) as them:
        app_ids = [app.app_id for app in recipients]
        idems = await them.publish("orders/paid", app_ids, PAYLOAD)
    for app, idem in zip(recipients, idems, strict=True):
        async with our_client(engine, app) as us:
            event = await first_event(us, "orders/paid")
        assert (event.idem, event.payload) == (idem, PAYLOAD)


@EVERY_SDK
async def test_they_read_what_our_client_publishes(sdk: Sdk, engine: LocalEngine) -> None:
    theirs, ours = engine.create_app("theirs"), engine.create_app("ours")
    async with official_client(sdk, engine, theirs) as them, our_client(engine, ours) as us:
        receipt = await us.publish("orders/paid", [theirs.app_id], PAYLOAD, METADATA)
        await them.subscribe("orders/paid", auto_ack=False)
        event = await them.next_event()
    assert event.idem == receipt.event_id
    assert event.event_name == "orders/paid"
    assert event.payload == PAYLOAD
    assert event.metadata == METADATA
    assert event.sender == ours.app_id


async def test_all_of_them_read_what_our_client_publishes_to_several_recipients(
    engine: LocalEngine,
) -> None:
    sdks = [SDK_033, SDK_044, SDK_WS_043]
    apps = [engine.create_app(str(sdk)) for sdk in sdks]
    ours = engine.create_app("ours")
    async with our_client(engine, ours) as us:
        recipients = [app.app_id for app in (*apps, ours)]
        receipt = await us.publish("orders/paid", recipients, PAYLOAD)
        assert (await first_event(us, "orders/paid")).idem == receipt.event_ids[ours.app_id]
    for sdk, app in zip(sdks, apps, strict=True):
        async with official_client(sdk, engine, app) as them:
            await them.subscribe("orders/paid", auto_ack=False)
            event = await them.next_event()
        assert (event.idem, event.payload) == (receipt.event_ids[app.app_id], PAYLOAD)


@EVERY_SDK
async def test_large_events_pass_both_ways(sdk: Sdk, engine: LocalEngine) -> None:
    """Their WebSocket clients take no message of more than 1 MiB; sealing adds a third twice."""
    payload = {"text": "x" * 400_000}
    theirs, ours = engine.create_app("theirs"), engine.create_app("ours")
    async with official_client(sdk, engine, theirs) as them, our_client(engine, ours) as us:
        await them.publish("large", [ours.app_id], payload)
        assert (await first_event(us, "large")).payload == payload
        await us.publish("large", [theirs.app_id], payload)
        await them.subscribe("large", auto_ack=False)
        assert (await them.next_event()).payload == payload


@EVERY_SDK
async def test_event_to_several_recipients_stays_at_the_engine_although_they_cannot_read_it(
    sdk: Sdk, engine: LocalEngine
) -> None:
    """These SDKs can't decrypt the hybrid envelopes that they themselves make.

    They look for the base64 text of the message key where they put its raw bytes. The
    event is skipped without a word to the program; the engine hands it to the next
    client of that app, here ours.
    """
    theirs, ours = engine.create_app("theirs"), engine.create_app("ours")
    async with official_client(sdk, engine, theirs) as them:
        await them.subscribe("orders", auto_ack=True)
        [unreadable, _] = await them.publish("orders", [theirs.app_id, ours.app_id], PAYLOAD)
        [readable] = await them.publish("orders", [theirs.app_id], {"hold": True})
        assert (await them.next_event()).idem == readable
        await them.die()
    async with our_client(engine, theirs) as us:
        event = await first_event(us, "orders")
    assert (event.idem, event.payload) == (unreadable, PAYLOAD)


@EVERY_SDK
async def test_a_wrong_app_key_is_refused(sdk: Sdk, engine: LocalEngine) -> None:
    known = engine.create_app("theirs")
    stranger = App(
        app_key="x" * len(known.app_key),
        app_id=known.app_id,
        secret_key=known.secret_key,
        name="stranger",
    )
    async with started_driver(sdk) as them:
        with pytest.raises(OfficialSdkError) as caught:
            await them.connect(sdk.url_of(engine), stranger)
    assert caught.value.type == "EnSyncConnectionError"
    assert stranger.app_key not in caught.value.text


@EVERY_SDK
async def test_what_an_app_may_not_send_is_refused(sdk: Sdk, engine: LocalEngine) -> None:
    theirs = engine.create_app("theirs", send=["orders/paid"])
    ours = engine.create_app("ours")
    async with official_client(sdk, engine, theirs) as them:
        with pytest.raises(OfficialSdkError, match="orders/sent") as caught:
            await them.publish("orders/sent", [ours.app_id], {})
        assert caught.value.type == "EnSyncPublishError"
        await them.publish("orders/paid", [ours.app_id], {})


@EVERY_SDK
@pytest.mark.parametrize("over_websocket", [False, True], ids=["we-grpc", "we-websocket"])
async def test_they_and_we_answer_each_other_over_any_transports(
    sdk: Sdk, over_websocket: bool, engine: LocalEngine
) -> None:
    theirs, ours = engine.create_app("theirs"), engine.create_app("ours")
    async with contextlib.AsyncExitStack() as stack:
        them = await stack.enter_async_context(official_client(sdk, engine, theirs))
        us = await stack.enter_async_context(
            our_client(engine, ours, over_websocket=over_websocket)
        )
        await them.subscribe("questions", auto_ack=False)
        await them.publish("questions", [ours.app_id], {"what": "is six times nine"})
        question = await stack.enter_async_context(us.subscribe("questions"))
        async for event in question:
            await event.reply({"answer": 54})
            break
        answer = await them.next_event()
    assert answer.payload == {"answer": 54}
    assert answer.sender == ours.app_id
