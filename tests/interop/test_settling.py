"""They acknowledge, defer, discard, replay, pause and continue.

What became of an event is asked of the engine's store. That it is not handed out
again is shown with a second event, which stays unsettled: a client that takes the place
of theirs gets that one first.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from ensync import EnSyncClient
from ensync.server.local import LocalEngine
from ensync.server.memory import MemoryStore
from ensync.server.store import EventState
from tests.interop.official import (
    SDK_033,
    SDK_033_WEBSOCKET,
    SDK_044,
    SDK_WS_043,
    OfficialClient,
    OfficialSdkError,
    Received,
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
OVER_GRPC = pytest.mark.parametrize("sdk", [SDK_033, SDK_044], ids=str)
OVER_WEBSOCKET = pytest.mark.parametrize("sdk", [SDK_033_WEBSOCKET, SDK_WS_043], ids=str)
EVENT_GENERATION = pytest.mark.parametrize("sdk", [SDK_033, SDK_033_WEBSOCKET], ids=str)
MESSAGE_GENERATION = pytest.mark.parametrize("sdk", [SDK_044, SDK_WS_043], ids=str)

HOLD = {"hold": True}  # a payload that makes the driver's handler never return


async def state_of(engine: LocalEngine, idem: str) -> EventState:
    found = await engine.broker.store.find(idem)
    assert found is not None
    return found.state


async def two_events(them: OfficialClient, engine: LocalEngine, app_id: str) -> list[Received]:
    """Gives an unacknowledged pair of events into their hands."""
    async with our_client(engine, engine.create_app("ours")) as us:
        await us.publish("orders", [app_id], {"number": 1})
        await us.publish("orders", [app_id], {"number": 2})
    await them.subscribe("orders", auto_ack=False)
    return [await them.next_event(), await them.next_event()]


@OVER_GRPC
async def test_events_are_acknowledged_when_their_handler_returns(
    sdk: Sdk, engine: LocalEngine
) -> None:
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them, our_client(engine, theirs) as us:
        handled = (await us.publish("orders", [theirs.app_id], {"number": 1})).event_id
        held = (await us.publish("orders", [theirs.app_id], HOLD)).event_id
        await them.subscribe("orders", auto_ack=True)
        # It calls its handler again only when the acknowledgement before is answered.
        assert [(await them.next_event()).idem for _ in range(2)] == [handled, held]
        assert await state_of(engine, handled) is EventState.ACKNOWLEDGED
        assert await state_of(engine, held) is EventState.OPEN
        await them.die()
        assert (await first_event(us, "orders")).idem == held


@EVERY_SDK
async def test_block_0_stays_at_the_engine_although_their_handler_has_returned(
    sdk: Sdk, new_engine: LocalEngine
) -> None:
    """Before they acknowledge by themselves, they ask whether the block is true."""
    theirs = new_engine.create_app("theirs")
    async with official_client(sdk, new_engine, theirs) as them:
        async with our_client(new_engine, theirs) as us:
            first = (await us.publish("orders", [theirs.app_id], {"number": 1})).event_id
            await us.publish("orders", [theirs.app_id], HOLD)
        await them.subscribe("orders", auto_ack=True)
        event, _ = await them.next_event(), await them.next_event()
        assert (event.idem, event.block) == (first, 0)
        await them.die()
    async with our_client(new_engine, theirs) as us:
        assert (await first_event(us, "orders")).idem == first


async def test_044_acknowledges_with_a_handler_that_was_there_before_it_connected(
    engine: LocalEngine,
) -> None:
    """The one way to get events that its public methods offer.

    Its pause() then opens a second stream for the same name. The engine lets that one
    take the place of the first, so that no event gets lost between them.
    """
    theirs = engine.create_app("theirs")
    async with started_driver(SDK_044) as them, our_client(engine, theirs) as us:
        await them.connect_subscribed(engine.url, theirs, "orders")
        idems = [(await us.publish("orders", [theirs.app_id], {})).event_id for _ in range(3)]
        assert [(await them.next_event()).idem for _ in idems] == idems
        assert await state_of(engine, idems[1]) is EventState.ACKNOWLEDGED
        await them.control("orders", "pause", "maintenance")
        held = (await us.publish("orders", [theirs.app_id], HOLD)).event_id
        await them.control("orders", "resume")
        event = await them.next_event()
        if event.idem == idems[-1]:  # its acknowledgement and the second stream have crossed
            event = await them.next_event()
        assert event.idem == held


@OVER_WEBSOCKET
async def test_events_are_acknowledged_although_the_acknowledgement_stalls_their_reader(
    sdk: Sdk, engine: LocalEngine
) -> None:
    """Their reader waits for the answer that only it could read, for 30 seconds an event."""
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them, our_client(engine, theirs) as us:
        handled = (await us.publish("orders", [theirs.app_id], {"number": 1})).event_id
        stuck = (await us.publish("orders", [theirs.app_id], {"number": 2})).event_id
        await them.subscribe("orders", auto_ack=True)
        assert (await them.next_event()).idem == handled
        await them.quit()
        assert (await first_event(us, "orders")).idem == stuck
    assert await state_of(engine, handled) is EventState.ACKNOWLEDGED


@EVERY_SDK
async def test_they_acknowledge(sdk: Sdk, engine: LocalEngine) -> None:
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them:
        first, second = await two_events(them, engine, theirs.app_id)
        await them.control("orders", "ack", first.idem, first.block)
        assert await state_of(engine, first.idem) is EventState.ACKNOWLEDGED
        await them.quit()
    async with our_client(engine, theirs) as us:
        assert (await first_event(us, "orders")).idem == second.idem


@EVENT_GENERATION
async def test_they_discard(sdk: Sdk, engine: LocalEngine) -> None:
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them:
        first, second = await two_events(them, engine, theirs.app_id)
        result = await them.control("orders", "discard", first.idem, "broken")
        assert (result["status"], result["action"]) == ("success", "discarded")
        assert await state_of(engine, first.idem) is EventState.DISCARDED
        await them.quit()
    async with our_client(engine, theirs) as us:
        assert (await first_event(us, "orders")).idem == second.idem


@MESSAGE_GENERATION
async def test_discard_is_applied_by_the_engine_although_their_method_raises(
    sdk: Sdk, engine: LocalEngine
) -> None:
    """It asks asyncio for ``get_message_loop``, which is not there, after the answer came."""
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them:
        first, second = await two_events(them, engine, theirs.app_id)
        with pytest.raises(OfficialSdkError, match="get_message_loop"):
            await them.control("orders", "discard", first.idem, "broken")
        assert await state_of(engine, first.idem) is EventState.DISCARDED
        await them.quit()
    async with our_client(engine, theirs) as us:
        assert (await first_event(us, "orders")).idem == second.idem


@EVENT_GENERATION
async def test_they_defer(sdk: Sdk, engine: LocalEngine) -> None:
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them:
        first, _ = await two_events(them, engine, theirs.app_id)
        result = await them.control("orders", "defer", first.idem, 60_000, "busy")
        assert (result["status"], result["action"]) == ("success", "deferred")
        assert result["scheduledDelivery"] > 0
        await assert_comes_again_later(them, engine, first)


@MESSAGE_GENERATION
async def test_defer_is_applied_by_the_engine_although_their_method_raises(
    sdk: Sdk, engine: LocalEngine
) -> None:
    """It asks asyncio for ``get_message_loop``, which is not there, after the answer came."""
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them:
        first, _ = await two_events(them, engine, theirs.app_id)
        with pytest.raises(OfficialSdkError, match="get_message_loop"):
            await them.control("orders", "defer", first.idem, 60_000, "busy")
        await assert_comes_again_later(them, engine, first)


async def assert_comes_again_later(
    them: OfficialClient, engine: LocalEngine, deferred: Received
) -> None:
    """Shows that an event deferred for a minute comes when that is over, and not before."""
    [newer] = await them.publish("orders", [them.app_id], {"number": 3})
    assert (await them.next_event()).idem == newer
    store = engine.broker.store
    assert isinstance(store, MemoryStore)
    now_ms = store._now_ms
    store._now_ms = lambda: now_ms() + 60_000
    store.bring_back_due()
    again = await them.next_event()
    assert (again.idem, again.payload) == (deferred.idem, deferred.payload)


@pytest.mark.parametrize("sdk", [SDK_033, SDK_033_WEBSOCKET, SDK_WS_043], ids=str)
async def test_they_replay(sdk: Sdk, engine: LocalEngine) -> None:
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them:
        first, _ = await two_events(them, engine, theirs.app_id)
        await them.control("orders", "ack", first.idem, first.block)
        replayed = await them.control("orders", "replay", first.idem)
    assert (replayed["idem"], replayed["payload"]) == (first.idem, {"number": 1})


async def test_replay_is_answered_by_the_engine_although_044_cannot_read_the_answer(
    engine: LocalEngine,
) -> None:
    """It decrypts the whole answer as if it were the payload.

    In its generation of methods the answer is a record with the payload in it: the Node
    and Go clients read that.
    """
    theirs = engine.create_app("theirs")
    async with official_client(SDK_044, engine, theirs) as them:
        first, _ = await two_events(them, engine, theirs.app_id)
        with pytest.raises(OfficialSdkError, match="Failed to decrypt replayed message"):
            await them.control("orders", "replay", first.idem)
        record: dict[str, Any] = await them.ask_for_replay_record("orders", first.idem)
    assert (record["eventIdem"], record["payload"]) == (first.idem, {"number": 1})


@EVERY_SDK
async def test_they_pause_and_continue(sdk: Sdk, engine: LocalEngine) -> None:
    """While theirs is paused, every event goes to another client of the same app."""
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them, our_client(engine, theirs) as us:
        first, second = await two_events(them, engine, theirs.app_id)
        for event in (first, second):
            await them.control("orders", "ack", event.idem, event.block)
        paused = await them.control("orders", "pause", "maintenance")
        assert (paused["status"], paused["action"]) == ("success", "paused")
        await assert_all_come_to_us(us, theirs.app_id)
        waiting = (await us.publish("orders", [theirs.app_id], {"number": 3})).event_id
        continued = await them.control("orders", "resume")
        assert (continued["status"], continued["action"]) == ("success", "continued")
        assert (await them.next_event()).idem == waiting


@EVERY_SDK
async def test_they_unsubscribe(sdk: Sdk, engine: LocalEngine) -> None:
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them, our_client(engine, theirs) as us:
        first, second = await two_events(them, engine, theirs.app_id)
        for event in (first, second):
            await them.control("orders", "ack", event.idem, event.block)
        await them.control("orders", "unsubscribe")
        await assert_all_come_to_us(us, theirs.app_id)


async def assert_all_come_to_us(us: EnSyncClient, app_id: str) -> None:
    """Shows that nobody else of the app gets events: they would be shared out."""
    published = [
        (await us.publish("orders", [app_id], {"round": number})).event_id for number in range(6)
    ]
    received: list[str] = []
    async with us.subscribe("orders") as subscription:
        with anyio.fail_after(10):
            async for event in subscription:
                received.append(event.idem)
                if len(received) == len(published):
                    break
    assert received == published


@EVERY_SDK
async def test_what_a_killed_client_had_in_hand_is_handed_out_again(
    sdk: Sdk, engine: LocalEngine
) -> None:
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them:
        first, _ = await two_events(them, engine, theirs.app_id)
        await them.die()
    async with our_client(engine, theirs) as us:
        assert (await first_event(us, "orders")).idem == first.idem


@OVER_WEBSOCKET
async def test_they_roll_back(sdk: Sdk, engine: LocalEngine) -> None:
    theirs = engine.create_app("theirs")
    async with official_client(sdk, engine, theirs) as them:
        first, _ = await two_events(them, engine, theirs.app_id)
        await them.control("orders", "rollback", first.idem, first.block)
        again = await them.next_event()
    assert (again.idem, again.payload) == (first.idem, first.payload)
