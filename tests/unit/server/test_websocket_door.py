"""The WebSocket door, as clients see it that this project did not write."""

from __future__ import annotations

import json
import logging
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import AsyncExitStack
from operator import methodcaller

import anyio
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from ensync.server.broker import Limits
from ensync.server.consumer import Credit
from ensync.server.hooks import DoorCall, DoorConnection, DoorFault, DoorHooks
from ensync.server.refusal import Reason, Refusal
from ensync.server.store import StoredEvent
from ensync.server.websocket import WebSocketLimits
from tests.unit.server.websocket_door import PAYLOAD, RawClient, open_door

pytestmark = pytest.mark.anyio

A_THOUSAND = 1000


# Coming in


async def test_connect_names_the_client_and_its_app() -> None:
    async with open_door() as door, door.socket() as raw:
        reply = await raw.ask(f"CONN;ACCESS_KEY=:{door.app.app_key}")
    client_id, app_id = reply.removeprefix("+PASS:{").removesuffix("}").split(",")
    assert client_id.startswith("clientId=")
    assert app_id == f"clientHash={door.app.app_id}"


async def test_a_wrong_key_is_refused_and_may_be_followed_by_a_right_one() -> None:
    async with open_door() as door, door.socket() as raw:
        assert await raw.ask("CONN;ACCESS_KEY=:wrong") == "-FAIL:unknown app key"
        await raw.connect()


@pytest.mark.parametrize("path", ["/", "/message/", "/messages", "/x/message", "/message/x"])
async def test_there_is_one_path_only(path: str) -> None:
    async with open_door() as door:
        with pytest.raises(InvalidStatus, match="404"):
            await door.side.run(_connect_to, door.url(path))


async def _connect_to(url: str) -> None:
    await connect(url, proxy=None)


async def test_there_are_no_more_connections_than_allowed() -> None:
    async with open_door(limits=WebSocketLimits(connections=1)) as door, door.client():
        with pytest.raises(InvalidStatus, match="503"):
            await door.side.run(_connect_to, door.url())


async def test_a_connection_may_hold_several_clients() -> None:
    async with open_door() as door, door.client() as raw:
        other = RawClient(raw.side, raw.socket, door.apps.create("other"))
        await other.connect()
        assert other.client_id != raw.client_id
        assert await raw.command("SUB", EVENT_NAME="n") == "+PASS:subscribed"
        assert await other.command("SUB", EVENT_NAME="n") == "+PASS:subscribed"
        for number in range(2, 64):
            assert await raw.ask(f"CONN;ACCESS_KEY=:{door.app.app_key}"), number
        assert "too many clients" in await raw.ask(f"CONN;ACCESS_KEY=:{door.app.app_key}")


async def test_a_client_id_of_another_connection_is_refused() -> None:
    async with open_door() as door, door.client() as one, door.client() as two:
        two.client_id = one.client_id
        for text in (
            two.publication(),
            two.text("SUB", EVENT_NAME="n"),
            two.text("ACK", EVENT_IDEM="i", BLOCK=1, EVENT_NAME="n"),
            two.text("PAUSE", EVENT_NAME="n"),
        ):
            assert "not made by a CONN on this connection" in await two.ask(text)


# Requests and replies


async def test_every_request_gets_one_reply_in_order() -> None:
    async with open_door() as door, door.client() as raw:
        texts: list[str] = []
        for number in range(A_THOUSAND):
            if number % 5:
                texts.append(raw.publication(METADATA=json.dumps({"number": number})))
            else:
                texts.append(f"NONSENSE-{number};")
        await raw.send(*texts)
        replies = [await raw.reply() for _ in texts]
        await raw.command("SUB", EVENT_NAME="n")
        records = [await raw.record() for number in range(A_THOUSAND) if number % 5]
    for number in range(0, A_THOUSAND, 5):
        assert f"'NONSENSE-{number}'" in replies[number]
    published = [reply.removeprefix("+PASS:") for reply in replies if reply.startswith("+PASS:")]
    assert published == [record["idem"] for record in records]
    numbers = [record["metadata"]["number"] for record in records]
    assert numbers == [number for number in range(A_THOUSAND) if number % 5]


async def test_a_control_request_waits_for_those_before_it_and_holds_up_those_after() -> None:
    class SlowPublish(DoorHooks):
        async def before_handling(self, call: DoorCall) -> None:
            log.append(f"begin {call.method}")
            if log.count("begin publish") == 1 and call.method == "publish":
                second_begun.append(anyio.Event())  # here, since it is awaited here
                await second_begun[0].wait()
            elif call.method == "publish":
                second_begun[0].set()

        async def before_reply(self, call: DoorCall) -> None:
            log.append(f"end {call.method}")

    log: list[str] = []
    second_begun: list[anyio.Event] = []
    async with open_door(SlowPublish()) as door, door.client() as raw:
        log.clear()
        publish, subscribe = raw.publication(), raw.text("SUB", EVENT_NAME="n")
        await raw.send(publish, publish, subscribe, publish)
        assert [(await raw.reply())[:6] for _ in range(4)] == ["+PASS:"] * 4
    assert log[:2] == ["begin publish"] * 2
    assert log[2:4] == ["end publish"] * 2
    assert log[4:] == ["begin subscribe", "end subscribe", "begin publish", "end publish"]


async def test_a_record_has_all_its_fields() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        before = time.time() * 1000
        idem = await raw.publish(METADATA='{"a": [1.0, "x"]}')
        record = await raw.record()
    assert before - 1 <= record.pop("loggedAt") <= time.time() * 1000
    assert isinstance(record.pop("block"), int)
    assert record == {
        "name": "n",
        "idem": idem,
        "payload": PAYLOAD,
        "metadata": {"a": [1.0, "x"]},
        "sender": door.app.app_id,
    }


async def test_events_that_wait_come_after_the_reply_to_subscribe() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.publish()
        await raw.send(raw.text("SUB", EVENT_NAME="n"))
        assert await raw.receive() == "+PASS:subscribed"
        assert (await raw.receive()).startswith("+RECORD:")


async def test_an_acknowledged_event_is_done() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        idem = await raw.publish()
        block = (await raw.record())["block"]
        ack = raw.text("ACK", EVENT_IDEM=idem, BLOCK=block, EVENT_NAME="n")
        assert await raw.ask(ack) == "+PASS:acknowledged"
        assert "already" in await raw.ask(ack)


@pytest.mark.parametrize("key", ["BLOCK", "PARTITION_BLOCK"])
async def test_a_rollback_gives_the_event_back_at_once(key: str) -> None:
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        idem = await raw.publish()
        block = (await raw.record())["block"]
        rollback = raw.text("ROLLBACK", EVENT_IDEM=idem, **{key: block})
        assert await raw.ask(rollback) == "+PASS:rolled back"
        assert (await raw.record())["idem"] == idem


async def test_a_deferral_says_when_the_event_is_due() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        idem = await raw.publish()
        await raw.record()
        reply = await raw.command("DEFER", EVENT_IDEM=idem, EVENT_NAME="n", DELAY=60_000)
        due = int(reply.removeprefix("+PASS:{deliveryTime=").removesuffix("}"))
        assert due > (time.time() + 55) * 1000
        assert "delay must be" in await raw.command(
            "DEFER", EVENT_IDEM=idem, EVENT_NAME="n", DELAY=5, REASON="x"
        )
        await raw.command("DEFER", EVENT_IDEM=idem, EVENT_NAME="n", DELAY=0)
        assert (await raw.record())["idem"] == idem


async def test_a_discarded_event_can_still_be_replayed() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        idem = await raw.publish()
        await raw.record()
        discard = raw.text("DISCARD", EVENT_IDEM=idem, EVENT_NAME="n", REASON="no use")
        assert await raw.ask(discard) == "+PASS:discarded"
        reply = await raw.command("REPLAY", EVENT_IDEM=idem, EVENT_NAME="n")
    record = json.loads(reply.removeprefix("+REPLAY:"))
    assert record["idem"] == idem
    info = record["metadata"]["$internal"]["replay_info"]
    assert info["was_acknowledged"] == {"is_string": False, "content": "false"}


async def test_a_pause_holds_events_until_continue() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        assert await raw.command("PAUSE", EVENT_NAME="n", REASON="lunch") == "+PASS:paused"
        await raw.publish()
        await raw.ask("PING")
        assert raw.records == []
        assert await raw.command("CONTINUE", EVENT_NAME="n") == "+PASS:continued"
        await raw.record()


async def test_an_unsubscribed_name_gets_no_more_events() -> None:
    async with open_door() as door, door.client() as raw, door.client() as other:
        await raw.command("SUB", EVENT_NAME="n")
        idem = await raw.publish()
        await raw.record()
        assert await raw.command("UNSUB", EVENT_NAME="n") == "+PASS:unsubscribed"
        await raw.publish()
        await raw.ask("PING")
        assert raw.records == []
        await other.command("SUB", EVENT_NAME="n")
        assert (await other.record())["idem"] == idem


async def test_what_was_in_hand_comes_to_the_next_client_when_a_connection_ends() -> None:
    async with open_door() as door, door.client() as other:
        async with door.client() as raw:
            await raw.command("SUB", EVENT_NAME="n")
            idems = [await raw.publish() for _ in range(3)]
            for _ in idems:
                await raw.record()
        await other.command("SUB", EVENT_NAME="n")
        assert [(await other.record())["idem"] for _ in idems] == idems
        assert door.broker.statistics().clients == 1


async def test_a_text_ping_is_answered_and_a_text_pong_is_not() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.send("PONG", "PING")
        assert await raw.receive() == "PONG"


# What is refused


async def test_a_binary_message_is_refused() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.send(b"SUB;")
        assert "requests are text" in await raw.reply()


async def test_a_reason_can_not_forge_a_field() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        pause = raw.text("PAUSE", EVENT_NAME="n", REASON="x;EVENT_NAME=:other")
        assert await raw.ask(pause) == "-FAIL:PAUSE has EVENT_NAME twice"


async def test_metadata_may_hold_what_looks_like_fields() -> None:
    metadata = {"note": 'x;EVENT_NAME=:other;=:\n"}', ";DELIVERY_TO=:y": [";"]}
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        await raw.publish(METADATA=json.dumps(metadata))
        record = await raw.record()
    assert record["name"] == "n"
    assert record["metadata"] == metadata


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"PAYLOAD": "not base64!"}, "base64"),
        ({"PAYLOAD": ""}, "payload is empty"),
        ({"METADATA": "[]"}, "JSON object"),
        ({"EVENT_NAME": ""}, "event_name"),
        ({"EVENT_NAME": "a\0b"}, "control characters"),
        ({"DELIVERY_TO": "nobody"}, "delivery_to"),
        ({"PAYLOAD_METADATA": '{"byte_size": -1}'}, "byte_size"),
        ({"COLOUR": "red"}, "no field 'COLOUR'"),
    ],
)
async def test_a_bad_publish_is_refused_with_the_reason(
    fields: dict[str, object], reason: str
) -> None:
    async with open_door() as door, door.client() as raw:
        reply = await raw.ask(raw.publication(**fields))
        assert reply.startswith("-FAIL:")
        assert reason in reply
        await raw.publish()


async def test_a_missing_permission_is_refused() -> None:
    async with open_door() as door:
        app = door.apps.create("mute", send=["allowed"], receive=[])
        async with door.client(app) as raw:
            assert "no permission to send" in await raw.ask(raw.publication())
            assert "no permission to receive" in await raw.command("SUB", EVENT_NAME="n")


async def test_a_message_over_the_limit_ends_its_connection_and_no_other() -> None:
    async with open_door() as door, door.client() as good, door.client() as bad:
        await bad.send(bad.publication(PAYLOAD="A" * (7 << 20)))
        error = await bad.closed()
        assert error.rcvd is not None
        assert error.rcvd.code == 1009
        await good.publish(PAYLOAD=b64encode(b"A" * (3 << 20)).decode())


async def test_a_removed_app_s_clients_are_sent_away() -> None:
    async with open_door() as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        await door.side.run(door.broker.disconnect_app, door.app.app_id)
        error = await raw.closed()
        assert error.rcvd is not None
        assert error.rcvd.code == 1001


async def test_debug_logs_show_no_app_key(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("", "websockets", "websockets.server", "ensync"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with open_door() as door, door.client() as raw:
        await raw.ask(f"CONN;ACCESS_KEY=:{door.app.app_key};ACCESS_KEY=:x")
        app_key = door.app.app_key
    own = [entry for entry in caplog.records if not entry.name.startswith("websockets.client")]
    assert not any(app_key in entry.getMessage() for entry in own)


# Slow and dead clients


async def test_a_slow_reader_holds_back_its_own_events_only() -> None:
    credit = Credit(events=1000, bytes=1 << 30)
    payload = b64encode(b"x" * 75_000).decode()
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(open_door(broker_limits=Limits(credit=credit)))
        slow = await stack.enter_async_context(door.client(max_queue=1))
        good = await stack.enter_async_context(door.client())
        await slow.command("SUB", EVENT_NAME="n")
        slow.socket.transport.pause_reading()
        for _ in range(300):
            await good.publish(PAYLOAD=payload)
        connection = next(c for c in door.door.connections if slow.client_id in c.client_ids)
        assert connection.unsent_bytes < 1 << 20
        await good.command("SUB", EVENT_NAME="quick")
        await good.publish(EVENT_NAME="quick")
        assert (await good.record())["name"] == "quick"
        slow.socket.transport.resume_reading()
        records = [await slow.record() for _ in range(300)]
    assert len({record["idem"] for record in records}) == 300


async def test_a_client_that_answers_no_pings_is_dropped() -> None:
    limits = WebSocketLimits(ping_interval=0.5)
    async with open_door(limits=limits) as door, door.client() as good, door.client() as dead:
        dead.socket.transport.pause_reading()
        await door.broker.until(lambda: door.broker.statistics().clients == 1)
        await good.publish()


async def test_a_client_stays_known_by_its_connection_alone() -> None:
    limits = WebSocketLimits(ping_interval=0.01)
    async with open_door(limits=limits) as door, door.client() as raw:
        await door.broker.until(lambda: raw.client_id in door.broker.seen_alive)


# Hooks


Fault = Exception | Callable[[DoorConnection], None] | None


class Faults(DoorHooks):
    """Does what a test says, at one kind of request."""

    def __init__(self, method: str, *, handling: Fault = None, reply: Fault = None) -> None:
        self.method = method
        self.handling = handling
        self.reply = reply
        self.copies = 1

    async def before_handling(self, call: DoorCall) -> None:
        self._apply(call, self.handling)

    async def before_reply(self, call: DoorCall) -> None:
        self._apply(call, self.reply)

    async def before_delivery(self, call: DoorCall, stored: StoredEvent) -> int:
        return self.copies

    def _apply(self, call: DoorCall, fault: Fault) -> None:
        if call.method != self.method or fault is None:
            return
        if isinstance(fault, Exception):
            raise fault
        fault(call.connection)


async def test_a_fault_before_handling_keeps_the_broker_out_of_it() -> None:
    hooks = Faults("publish", handling=DoorFault("not now"))
    async with open_door(hooks) as door, door.client() as raw:
        assert await raw.ask(raw.publication()) == "-FAIL:not now"
        assert door.broker.statistics().published == 0


async def test_a_fault_before_the_reply_comes_after_the_commit() -> None:
    hooks = Faults("publish", reply=Refusal(Reason.LIMIT, "too late"))
    async with open_door(hooks) as door, door.client() as raw:
        assert await raw.ask(raw.publication()) == "-FAIL:too late"
        assert door.broker.statistics().published == 1


async def test_a_silent_fault_loses_one_reply() -> None:
    hooks = Faults("publish", reply=DoorFault("", silent=True))
    async with open_door(hooks) as door, door.client() as raw:
        await raw.send(raw.publication(), raw.text("SUB", EVENT_NAME="other"))
        assert await raw.receive() == "+PASS:subscribed"


async def test_deliveries_can_be_lost_and_doubled() -> None:
    hooks = Faults("")
    async with open_door(hooks) as door, door.client() as raw:
        await raw.command("SUB", EVENT_NAME="n")
        hooks.copies = 0
        await raw.publish()
        await raw.ask("PING")
        hooks.copies = 2
        idem = await raw.publish()
        assert [(await raw.record())["idem"] for _ in range(2)] == [idem, idem]


async def test_an_error_inside_is_no_more_than_that(caplog: pytest.LogCaptureFixture) -> None:
    hooks = Faults("publish", handling=ValueError("a secret"))
    async with open_door(hooks) as door, door.client() as raw:
        assert await raw.ask(raw.publication()) == "-FAIL:internal error"
        assert await raw.command("SUB", EVENT_NAME="n") == "+PASS:subscribed"
    assert "internal error in the WebSocket door, in PUB" in caplog.text


async def test_a_connection_can_be_cut() -> None:
    hooks = Faults("publish", reply=methodcaller("abort"))
    async with open_door(hooks) as door, door.client() as raw:
        await raw.send(raw.publication())
        assert isinstance(await raw.closed(), ConnectionClosedError)


async def test_going_away_lets_requests_under_way_finish() -> None:
    hooks = Faults("subscribe", reply=methodcaller("go_away"))
    async with open_door(hooks) as door, door.client() as raw:
        await raw.send(raw.text("SUB", EVENT_NAME="n"))
        assert await raw.reply() == "+PASS:subscribed"
        error = await raw.closed()
        assert error.rcvd is not None
        assert error.rcvd.code == 1001


async def test_going_away_in_error_ends_with_another_code() -> None:
    hooks = Faults("publish", handling=methodcaller("go_away", error=True))
    async with open_door(hooks) as door, door.client() as raw:
        await raw.send(raw.publication())
        error = await raw.closed()
        assert error.rcvd is not None
        assert error.rcvd.code == 1011


async def test_a_frozen_connection_says_nothing_more_and_others_go_on() -> None:
    hooks = Faults("publish", reply=methodcaller("freeze"))
    async with open_door(hooks) as door, door.client() as frozen, door.client() as good:
        await good.command("SUB", EVENT_NAME="n")
        await frozen.send(frozen.publication())
        await good.record()
        await frozen.send("PING", frozen.publication())
        await good.ask("PING")
        with anyio.move_on_after(0.1) as waiting:
            await frozen.receive()
        assert waiting.cancelled_caught
        assert door.broker.statistics().published == 1


# Closing


async def test_closing_the_door_closes_every_connection() -> None:
    async with AsyncExitStack() as stack, open_door() as door:
        raw = await stack.enter_async_context(door.client())
        frozen = await stack.enter_async_context(door.client())
        for connection in door.door.connections:
            if frozen.client_id in connection.client_ids:
                connection.freeze()
        await raw.command("SUB", EVENT_NAME="n")
        await door.side.run(door.broker.shut_down)
        with anyio.fail_after(5):
            await door.side.run(door.door.aclose)
        assert door.door.connections == set()
        error = await raw.closed()
        assert error.rcvd is not None
        assert error.rcvd.code == 1001
        await stack.aclose()
