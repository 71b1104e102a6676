"""Garbage at the WebSocket door: each request gets its one reply, and nobody else is harmed."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from contextlib import suppress

import anyio
import pytest
from websockets.exceptions import ConnectionClosed

from tests.unit.server.websocket_door import OpenDoor, RawClient, open_door

pytestmark = pytest.mark.anyio

LONG = os.environ.get("ENSYNC_LONG_TESTS") == "1"
MEBIBYTE = 1 << 20
BATCH = 50

PIECES = [
    *(";", "=:", "=", ":", "{", "}", "[", '"', "\\", "\0", "\n", "\u2028", "é", "𝄞", "NaN", "-1"),
    *("CLIENT_ID", "EVENT_NAME", "BLOCK", "METADATA", "PARTITION_BLOCK", "PUB", "SUB", "CONN"),
    *(";EVENT_NAME=:other", "9" * 30, "[" * 2000, "A" * 5000),
]


def frames(lot: random.Random, raw: RawClient, count: int) -> Iterator[str | bytes]:
    """Requests that are nearly right, and some that never were."""
    seeds = [
        f"CONN;ACCESS_KEY=:{raw.app.app_key}x",
        raw.publication(METADATA='{"a":[1,{"b":";"}]}', PAYLOAD_METADATA='{"byte_size":1}'),
        raw.text("SUB", EVENT_NAME="n"),
        raw.text("UNSUB", EVENT_NAME="n"),
        raw.text("ACK", EVENT_IDEM="i", BLOCK=1, EVENT_NAME="n"),
        raw.text("ROLLBACK", EVENT_IDEM="i", PARTITION_BLOCK=1),
        raw.text("DEFER", EVENT_IDEM="i", EVENT_NAME="n", DELAY=1000, REASON="x"),
        raw.text("DISCARD", EVENT_IDEM="i", EVENT_NAME="n", REASON="x"),
        raw.text("PAUSE", EVENT_NAME="n", REASON="x"),
        raw.text("CONTINUE", EVENT_NAME="n"),
        raw.text("REPLAY", EVENT_IDEM="i", EVENT_NAME="n"),
    ]
    for _ in range(count):
        text = _mutated(lot, lot.choice(seeds))
        yield text if lot.random() < 0.95 else lot.randbytes(lot.randrange(64))


def _mutated(lot: random.Random, text: str) -> str:
    for _ in range(lot.randrange(4)):
        start, end = sorted(lot.choices(range(len(text) + 1), k=2))
        middle = lot.choice(["", lot.choice(PIECES), text[start:end] * 2, lot.choice(text or ";")])
        text = text[:start] + middle + text[end:]
    return text if text not in ("PING", "PONG") else ""


async def bombard(raw: RawClient, lot: random.Random, count: int) -> None:
    messages = list(frames(lot, raw, count))
    for start in range(0, count, BATCH):
        batch = messages[start : start + BATCH]
        await raw.send(*batch)
        for _ in batch:
            reply = await raw.reply()
            assert reply.startswith(("+PASS:", "+REPLAY:", "-FAIL:"))
            assert reply != "-FAIL:internal error"
        raw.records.clear()
    await raw.send("PING")
    assert await raw.reply() == "PONG", "a request got two replies"


async def live_normally(raw: RawClient, rounds: int) -> None:
    await raw.command("SUB", EVENT_NAME="quiet")
    for _ in range(rounds):
        idem = await raw.publish(EVENT_NAME="quiet")
        record = await raw.record()
        assert record["idem"] == idem
        ack = raw.text("ACK", EVENT_IDEM=idem, BLOCK=record["block"], EVENT_NAME="quiet")
        assert await raw.ask(ack) == "+PASS:acknowledged"


async def survive(door: OpenDoor, count: int) -> None:
    victim = door.apps.create("victim")
    async with (
        door.client(victim) as good,
        door.client() as bad,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(live_normally, good, 20)
        await bombard(bad, random.Random(count), count)
    async with door.client(victim) as good:
        await live_normally(good, 1)


async def test_requests_gone_wrong_harm_nobody() -> None:
    async with open_door() as door:
        await survive(door, 1000)


@pytest.mark.skipif(not LONG, reason="takes a minute: set ENSYNC_LONG_TESTS=1")
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_requests_gone_wrong_harm_nobody() -> None:
    async with open_door() as door:
        await survive(door, 1000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with door.client() as bad:
            for seed in range(100):
                await bombard(bad, random.Random(seed), 1000)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 100 * MEBIBYTE


async def test_websocket_frames_gone_wrong_end_their_connection_only() -> None:
    lot = random.Random(7)
    async with open_door() as door, door.client() as good:
        for _ in range(100):
            async with door.client() as bad:
                bad.socket.transport.write(lot.randbytes(lot.randrange(1, 200)))
                bad.socket.transport.write_eof()
                assert isinstance(await bad.closed(), ConnectionClosed)
        await live_normally(good, 3)
        await door.broker.until(lambda: door.broker.statistics().clients == 1)


@pytest.mark.parametrize(
    "beginning",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /message HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /message HTTP/1.1\r\n" + b"X-Long: y\r\n" * 10_000,
        b"GET /message HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: \xff\r\n\r\n",
        b"\0" * 100_000,
        random.Random(1).randbytes(5000),
    ],
)
async def test_what_is_no_websocket_is_turned_away(beginning: bytes) -> None:
    async with open_door() as door, door.client() as good:
        async with await anyio.connect_tcp("127.0.0.1", door.door.port) as stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, OSError):
                await stream.send(beginning)
                await stream.send_eof()
                while True:
                    await stream.receive()
        await live_normally(good, 1)
