"""What is thrown at the gRPC door: calls, HTTP/2 frames and bytes, all of them nearly right."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

import betterproto2
import h2.events
from grpclib.const import Status
from hpack import Encoder

from ensync.proto.ensync import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    ConnectRequest,
    ConnectResponse,
    ContinueRequest,
    ContinueResponse,
    DeferRequest,
    DeferResponse,
    DiscardRequest,
    DiscardResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PauseRequest,
    PauseResponse,
    PublishEventRequest,
    PublishEventResponse,
    ReplayRequest,
    ReplayResponse,
    SubscribeRequest,
    UnsubscribeRequest,
    UnsubscribeResponse,
)
from ensync.transports.grpc_codings import ENCODING, decompress
from tests.faults.fuzz_http2 import (
    BEGINNING,
    PIECES,
    PREFACE,
    SERVICE,
    FrameMaker,
    frame,
    recorded,
    request_body,
    spoilt_headers,
)
from tests.faults.fuzz_line import Attack, Line, Prey, connected, lied_to
from tests.unit.server.brokers import envelope
from tests.unit.server.raw_http2 import RawConnection, Reply, framed

__all__ = ["GRPC_ATTACKS"]

CALLS = 40  # on each connection, of the hundred that may be under way
MIB = 1 << 20


class Method(NamedTuple):
    """A method, and what a client would say and hear."""

    name: str
    request: betterproto2.Message
    response: type[betterproto2.Message]


class Caller(NamedTuple):
    """What an attacker has to say in a call that is to get far."""

    client_id: str
    idem: str
    recipient: str
    app_key: str


async def calls(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """Calls with spoilt messages: each is answered once, and the connection stays."""
    async with connected(prey, lines) as line:
        raw = RawConnection(line)
        methods = _methods(lot, await _introduce(raw, lot, prey))
        replies: dict[int, tuple[Reply, Method]] = {}
        for _ in range(CALLS):
            method = lot.choice(methods)
            coding = lot.choice(["", "", "deflate", "gzip"])
            body, is_whole = request_body(lot, bytes(method.request), coding)
            headers = {ENCODING: coding} if coding else None
            path = SERVICE + method.name
            stream_id = await raw.ask(body, path=path, end=is_whole, headers=headers)
            if is_whole and method.name != "Subscribe":
                replies[stream_id] = Reply(), method
        prey.thrown["calls"] += CALLS
        await _until_answered(raw, {number: reply for number, (reply, _) in replies.items()})
        for reply, method in replies.values():
            prey.answers[_answer(reply, method)] += 1
        await _check_is_well(raw)


async def large_calls(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """Large messages, of which some stop halfway, and others are larger than may be."""
    async with connected(prey, lines) as line:
        raw = RawConnection(line)
        caller = await _introduce(raw, lot, prey)
        method = Method("PublishEvent", HeartbeatRequest(), PublishEventResponse)
        for _ in range(3):
            size = lot.choice([MIB // 4, MIB, 3 * MIB, 4 * MIB + 4, 6 * MIB])
            body = framed(bytes(_publication(caller, event_name="large", payload="A" * size)))
            is_whole = lot.random() < 0.6
            reply = await _say_slowly(raw, body if is_whole else body[: size // 2], is_whole)
            prey.thrown["large calls"] += 1
            prey.answers[_answer(reply, method) if reply.has_ended else "nothing yet"] += 1
        await line.hang_up()


async def strange_calls(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """Calls with spoilt headers: any may end the connection."""
    async with connected(prey, lines) as line:
        raw = RawConnection(line)
        caller = await _introduce(raw, lot, prey)
        encoder = Encoder()
        for _ in range(10):
            method = lot.choice(_methods(lot, caller))
            block = encoder.encode(spoilt_headers(lot, method.name), huffman=lot.random() < 0.5)
            stream_id = raw.h2.get_next_available_stream_id()
            raw.h2.highest_outbound_stream_id = stream_id
            headers = frame(1, 4, stream_id, block)
            await line.throw(headers, frame(0, 1, stream_id, framed(bytes(method.request))))
            prey.thrown["strange calls"] += 1
        await line.hang_up()


async def frames(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """HTTP/2 frames of all types, flags and streams, some with lengths that are lies."""
    async with connected(prey, lines) as line:
        count = lot.randint(1, 16)
        maker = FrameMaker(lot, prey)
        await line.throw(BEGINNING, *(maker.frame() for _ in range(count)))
        prey.thrown["frames"] += count
        await line.hang_up()


async def raw_bytes(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """A conversation that was recorded and spoilt, or no conversation at all."""
    beginnings = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + lot.randbytes(500),
        lot.randbytes(lot.randrange(2000)),
        PREFACE + lot.randbytes(lot.randrange(500)),
        PREFACE[: lot.randrange(len(PREFACE))],
        *(recorded(prey.app.app_key) for _ in range(4)),
    ]
    async with connected(prey, lines) as line:
        await line.throw(lied_to(lot, lot.choice(beginnings), PIECES))
        prey.thrown["raw bytes"] += 1
        await line.hang_up()


GRPC_ATTACKS: dict[Attack, int] = {
    calls: 30,
    large_calls: 1,
    strange_calls: 20,
    frames: 80,
    raw_bytes: 60,
}
"""By how often each is made."""


# Calls


async def _introduce(raw: RawConnection, lot: random.Random, prey: Prey) -> Caller:
    """Connects, and publishes an event for the calls to be about."""
    app = prey.stranger if lot.random() < 0.1 else prey.app
    await raw.flush()
    body = framed(bytes(ConnectRequest(access_key=app.app_key)))
    reply = await _call(raw, "Connect", body)
    client_id = ConnectResponse.parse(reply.data[5:]).client_id
    caller = Caller(client_id, "no-such-event", prey.app.app_id, app.app_key)
    publication = framed(bytes(_publication(caller)))
    reply = await _call(raw, "PublishEvent", publication)
    idem = PublishEventResponse.parse(reply.data[5:]).event_idem
    return caller._replace(idem=idem or caller.idem)


def _publication(caller: Caller, **changes: str) -> PublishEventRequest:
    request = PublishEventRequest(
        client_id=caller.client_id,
        event_name="n",
        payload=envelope("e"),
        delivery_to=caller.recipient,
        metadata='{"a":1}',
        payload_metadata='{"byte_size":1,"skeleton":{"a":"integer"}}',
    )
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def _methods(lot: random.Random, caller: Caller) -> list[Method]:
    """What may be called, in either generation."""
    kind = lot.choice(["Event", "Message"])
    who, idem = caller.client_id, caller.idem
    of_event = {"client_id": who, "event_idem": idem, "event_name": "n"}
    of_name = {"client_id": who, "event_name": lot.choice(["n", "other"])}
    odd = _publication(caller, **lot.choice(ODD_PUBLICATIONS))
    delay = lot.choice([0, 1, 1000, -1, 86_400_001, 2**62])
    return [
        Method("Connect", ConnectRequest(access_key=caller.app_key), ConnectResponse),
        Method("Heartbeat", HeartbeatRequest(client_id=who), HeartbeatResponse),
        Method(f"Publish{kind}", _publication(caller), PublishEventResponse),
        Method(f"Publish{kind}", odd, PublishEventResponse),
        Method("Subscribe", SubscribeRequest(**of_name), betterproto2.Message),
        Method("Unsubscribe", UnsubscribeRequest(**of_name), UnsubscribeResponse),
        Method(f"Acknowledge{kind}", AcknowledgeRequest(who, idem, "n"), AcknowledgeResponse),
        Method(f"Defer{kind}", DeferRequest(who, idem, "n", delay), DeferResponse),
        Method(f"Discard{kind}", DiscardRequest(**of_event, reason="r"), DiscardResponse),
        Method(f"Replay{kind}", ReplayRequest(**of_event), ReplayResponse),
        Method(f"Pause{kind}s", PauseRequest(**of_name, reason="r"), PauseResponse),
        Method(f"Continue{kind}s", ContinueRequest(**of_name), ContinueResponse),
        Method("Drop", HeartbeatRequest(client_id=who), HeartbeatResponse),
    ]


ODD_PUBLICATIONS = [
    {"payload": ""},
    {"payload": "not base64"},
    {"delivery_to": "nobody"},
    {"delivery_to": "A" * 43 + "="},
    {"metadata": "[]"},
    {"metadata": '{"ttl":"soon"}'},
    {"metadata": '{"ttl":1,"persist":false}'},
    {"payload_metadata": '{"byte_size":-1}'},
    {"payload_metadata": '{"skeleton":{"a":"secret"}}'},
    {"event_name": "x" * 2000},
    {"event_name": ""},
]


async def _call(raw: RawConnection, name: str, body: bytes) -> Reply:
    reply = Reply()
    await _until_answered(raw, {await raw.ask(body, path=SERVICE + name): reply})
    return reply


async def _until_answered(raw: RawConnection, replies: dict[int, Reply]) -> None:
    while not all(reply.has_ended for reply in replies.values()):
        await _hear(raw, replies)


async def _hear(raw: RawConnection, replies: dict[int, Reply]) -> None:
    for event in raw.h2.receive_data(await raw.stream.receive()):
        if isinstance(event, h2.events.DataReceived):
            # Else the events of a subscription would leave no room for replies.
            raw.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        reply = replies.get(getattr(event, "stream_id", 0))
        if reply is not None:
            assert not reply.has_ended or isinstance(event, h2.events.StreamReset), event
            reply.add(event)
    await raw.flush()


async def _say_slowly(raw: RawConnection, body: bytes, is_whole: bool) -> Reply:
    """Makes a call that is larger than a frame, and than what may be said at once."""
    stream_id = await raw.ask(b"", path=SERVICE + "PublishEvent", end=False)
    reply = Reply()
    while body and not reply.has_ended:
        room = min(raw.h2.local_flow_control_window(stream_id), 16_384)
        if room == 0:
            await _hear(raw, {stream_id: reply})
            continue
        raw.h2.send_data(stream_id, body[:room], end_stream=is_whole and room >= len(body))
        body = body[room:]
        await raw.flush()
    if is_whole:
        await _until_answered(raw, {stream_id: reply})
    return reply


def _answer(reply: Reply, method: Method) -> str:
    """What the door said, without what is different each time."""
    if reply.status is not Status.OK:
        return f"{reply.status.name}: {_gist(reply.headers.get('grpc-message', ''))}"
    data = reply.data[5:]
    if reply.data[0]:
        data = decompress(data, reply.headers[ENCODING], MIB)
    message = method.response.parse(data)
    if getattr(message, "success", False):
        return f"{method.name}: done"
    return _gist(getattr(message, "error_message", "") or getattr(message, "message", ""))


def _gist(text: str) -> str:
    return re.split(r"['\"%\d]", text)[0].strip()[:60]


async def _check_is_well(raw: RawConnection) -> None:
    body = framed(bytes(HeartbeatRequest(client_id="nobody")))
    reply = await _call(raw, "Heartbeat", body)
    assert reply.status is Status.OK
    await raw.stream.send_eof()
