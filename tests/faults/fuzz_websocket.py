"""What is thrown at the WebSocket door: requests, frames and bytes, all of them nearly right."""

from __future__ import annotations

import random
import re

from ensync.server.apps import App
from tests.faults.fuzz_line import Attack, Line, Prey, connected, lied_to, spoilt
from tests.unit.server.brokers import envelope

__all__ = ["WEBSOCKET_ATTACKS"]

MIB = 1 << 20
REQUESTS = 50  # on each connection
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FINAL, MASKED = 0x80, 0x80

UPGRADE = (
    b"GET /message HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

PIECES = [
    *(";", "=:", "=", ":", "{", "}", "[", '"', "\\", "\0", "\n", "\u2028", "é", "𝄞", "NaN", "-1"),
    *("CLIENT_ID", "EVENT_NAME", "BLOCK", "METADATA", "PARTITION_BLOCK", "PUB", "SUB", "CONN"),
    *(";EVENT_NAME=:other", "9" * 30, "[" * 2000, "A" * 5000, ";REASON=:"),
]
BYTES = [piece.encode() for piece in PIECES] + [b"\xff", b"\xc3\x28", b"\r\n", b"\x81\x7f"]


async def requests(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """Spoilt requests: each gets one reply, in its turn, and the connection stays."""
    async with connected(prey, lines) as line:
        ears = await _introduced(line)
        seeds = await _seeds(lot, prey, line, ears)
        texts = [_without_pings(spoilt(lot, lot.choice(seeds), PIECES)) for _ in range(REQUESTS)]
        await line.throw(*(_as_frames(lot, text.encode()) for text in texts))
        prey.thrown["requests"] += REQUESTS
        for _ in texts:
            reply = await ears.reply()
            assert reply.startswith(("+PASS:", "+REPLAY:", "-FAIL:")), reply[:99]
            assert reply != "-FAIL:internal error"
            prey.answers[_gist(reply)] += 1
        await line.throw(_frame(TEXT, b"PING"))
        assert await ears.reply() == "PONG", "a request got two replies"
        await line.hang_up()


async def large_requests(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """Requests that are large or too large, of which some stop halfway."""
    async with connected(prey, lines) as line:
        ears = await _introduced(line)
        await line.throw(_frame(TEXT, f"CONN;ACCESS_KEY=:{prey.app.app_key}".encode()))
        client = (await ears.reply()).partition("clientId=")[2].split(",")[0]
        for _ in range(3):
            await line.throw(_as_frames(lot, _large_publication(lot, client, prey)))
            prey.answers[_gist(await ears.reply())] += 1
            prey.thrown["large requests"] += 1
        too_large = _frame(TEXT, b"A" * 7 * MIB)
        await line.throw(too_large[: lot.choice([MIB // 8, MIB, 7 * MIB])])
        await line.hang_up()


async def frames(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """Frames with any opcode, flag, mask and length."""
    async with connected(prey, lines) as line:
        await _introduced(line)
        count = lot.randint(1, 12)
        maker = FrameMaker(lot, prey)
        await line.throw(*(maker.frame() for _ in range(count)))
        prey.thrown["frames"] += count
        await line.hang_up()


async def upgrades(lot: random.Random, prey: Prey, lines: list[Line]) -> None:
    """What comes before the frames, or instead of them."""
    beginnings = [
        *(UPGRADE for _ in range(5)),
        UPGRADE.replace(b"GET", b"POST"),
        UPGRADE.replace(b"/message", b"/" + b"x" * lot.choice([3, 10_000])),
        UPGRADE.replace(b"13", lot.choice([b"12", b"-1", b"9" * 5000])),
        UPGRADE.replace(b"\r\n\r\n", b"\r\nX-Long: y" * lot.choice([1, 500])),
        UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 99999999999\r\n\r\n"),
        UPGRADE + _frame(TEXT, b"PING") + lot.randbytes(lot.randrange(100)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + lot.randbytes(160),
        lot.randbytes(lot.randrange(2000)),
    ]
    async with connected(prey, lines) as line:
        await line.throw(lied_to(lot, lot.choice(beginnings), BYTES))
        prey.thrown["upgrades"] += 1
        await line.hang_up()


WEBSOCKET_ATTACKS: dict[Attack, int] = {requests: 40, large_requests: 1, frames: 80, upgrades: 60}
"""By how often each is made."""


class Ears:
    """Takes apart what the door says, which is well-formed."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._heard = bytearray()

    async def reply(self) -> str:
        """The next text that is no event."""
        while True:
            opcode, payload = await self._frame()
            if opcode == TEXT and not payload.startswith(b"+RECORD:"):
                return payload.decode()
            assert opcode in (TEXT, PING, PONG), (opcode, payload)

    async def until(self, mark: bytes) -> bytes:
        while mark not in self._heard:
            self._heard += await self._line.receive()
        text, _, rest = bytes(self._heard).partition(mark)
        self._heard = bytearray(rest)
        return text

    async def _frame(self) -> tuple[int, bytes]:
        first, size = await self._take(2)
        assert first & FINAL
        if size > 125:
            size = int.from_bytes(await self._take(2 if size == 126 else 8), "big")
        return first & 0xF, await self._take(size)

    async def _take(self, size: int) -> bytes:
        while len(self._heard) < size:
            self._heard += await self._line.receive()
        taken = bytes(self._heard[:size])
        del self._heard[:size]
        return taken


async def _introduced(line: Line) -> Ears:
    """Becomes a WebSocket."""
    ears = Ears(line)
    await line.throw(UPGRADE)
    assert b" 101 " in await ears.until(b"\r\n\r\n")
    return ears


# Requests


async def _seeds(lot: random.Random, prey: Prey, line: Line, ears: Ears) -> list[str]:
    """Connects, publishes an event, and returns requests that are right, and may be about it."""
    app = prey.stranger if lot.random() < 0.1 else prey.app
    await line.throw(_frame(TEXT, f"CONN;ACCESS_KEY=:{app.app_key}".encode()))
    identity = await ears.reply()
    client = identity.partition("clientId=")[2].split(",")[0]
    await line.throw(_frame(TEXT, _publication(client, prey.app).encode()))
    idem = (await ears.reply()).removeprefix("+PASS:")
    event = f"CLIENT_ID=:{client};EVENT_IDEM=:{idem if app is prey.app else 'none'}"
    name = f"CLIENT_ID=:{client};EVENT_NAME=:{lot.choice(['n', 'other'])}"
    delay = lot.choice([0, 1, 1000, -1, 2**62])
    return [
        f"CONN;ACCESS_KEY=:{app.app_key}",
        f"CONN;ACCESS_KEY=:{app.app_key}x",
        _publication(client, prey.app),
        _publication(client, prey.app, **lot.choice(ODD_PUBLICATIONS)),
        f"SUB;{name}",
        f"UNSUB;{name}",
        f"ACK;{event};BLOCK=:{lot.choice([0, 1, 2**63])};EVENT_NAME=:n",
        f"ROLLBACK;{event};PARTITION_BLOCK=:1",
        f"DEFER;{event};EVENT_NAME=:n;DELAY=:{delay};REASON=:r",
        f"DISCARD;{event};EVENT_NAME=:n;REASON=:r",
        f"PAUSE;{name};REASON=:r",
        f"CONTINUE;{name}",
        f"REPLAY;{event};EVENT_NAME=:n",
    ]


ODD_PUBLICATIONS: list[dict[str, str]] = [
    {"payload": ""},
    {"payload": "not base64"},
    {"recipient": "nobody"},
    {"recipient": "A" * 43 + "="},
    {"metadata": "[]"},
    {"metadata": '{"ttl":"soon"}'},
    {"metadata": '{"ttl":1,"persist":false}'},
    {"metadata": '{"a":[1,{"b":";EVENT_NAME=:other"}]}'},
    {"description": '{"byte_size":-1}'},
    {"event_name": "x" * 2000},
    {"event_name": ""},
]


def _publication(
    client: str,
    app: App,
    *,
    event_name: str = "n",
    payload: str = envelope("e"),
    recipient: str = "",
    metadata: str = "{}",
    description: str = '{"byte_size":1}',
) -> str:
    return (
        f"PUB;CLIENT_ID=:{client};EVENT_NAME=:{event_name};PAYLOAD=:{payload}"
        f";DELIVERY_TO=:{recipient or app.app_id};METADATA=:{metadata}"
        f";PAYLOAD_METADATA=:{description}"
    )


def _large_publication(lot: random.Random, client: str, prey: Prey) -> bytes:
    size = lot.choice([MIB // 4, MIB, 3 * MIB, 4 * MIB + 4])
    return _publication(client, prey.app, event_name="large", payload="A" * size).encode()


def _without_pings(text: str) -> str:
    # A ping gets a pong and no reply, and a pong gets nothing.
    return "" if text in ("PING", "PONG") else text


def _as_frames(lot: random.Random, text: bytes) -> bytes:
    """A message in one frame or in several, with control frames between them."""
    if lot.random() < 0.05:
        return _frame(BINARY, text)
    if lot.random() < 0.8 or not text:
        return _frame(TEXT, text)
    cuts = sorted(lot.choices(range(len(text) + 1), k=lot.randint(1, 5)))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    pieces = [_frame(TEXT, parts[0], final=False)]
    for part in parts[1:]:
        pieces.append(_frame(lot.choice([PING, PONG]), lot.randbytes(lot.randrange(126))))
        pieces.append(_frame(CONTINUATION, part, final=False))
    return b"".join([*pieces, _frame(CONTINUATION, b"")])


def _gist(reply: str) -> str:
    kind, _, text = reply.partition(":")
    return kind if kind != "-FAIL" else re.split(r"['\"\d]", text)[0].strip()[:60]


# Frames


def _frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    # Masked with zeros, which leaves the payload as it is.
    first = bytes([opcode | (FINAL if final else 0)])
    return first + _length(len(payload)) + bytes(4) + payload


def _length(size: int) -> bytes:
    if size < 126:
        return bytes([MASKED | size])
    if size < 1 << 16:
        return bytes([MASKED | 126]) + size.to_bytes(2, "big")
    return bytes([MASKED | 127]) + size.to_bytes(8, "big")


class FrameMaker:
    """Makes frames of any kind."""

    def __init__(self, lot: random.Random, prey: Prey) -> None:
        self._lot = lot
        self._connect = f"CONN;ACCESS_KEY=:{prey.app.app_key}".encode()

    def frame(self) -> bytes:
        """A frame, of which most are wrong somewhere."""
        lot, connect = self._lot, self._connect
        make = lot.choices(
            [self._good, self._control, self._close, self._no_text, self._odd, self._lie],
            [4, 2, 1, 1, 3, 1],
        )[0]
        return make() if lot.random() < 0.9 else lied_to(lot, _frame(TEXT, connect), BYTES)

    def _good(self) -> bytes:
        return _as_frames(self._lot, spoilt(self._lot, self._connect, BYTES))

    def _control(self) -> bytes:
        size = self._lot.choice([0, 1, 125, 126, 5000])
        return _frame(self._lot.choice([PING, PONG]), self._lot.randbytes(size))

    def _close(self) -> bytes:
        code = self._lot.choice([0, 999, 1000, 1001, 1005, 1006, 1015, 3000, 65535])
        reason = self._lot.choice([b"", b"bye", b"\xff\xfe", b"x" * 123, b"x" * 124])
        return _frame(CLOSE, self._lot.choice([code.to_bytes(2, "big") + reason, b"", b"x"]))

    def _no_text(self) -> bytes:
        parts = [b"\xff", b"\xc3\x28", b"\xed\xa0\x80", self._connect + b"\xf0\x9f"]
        return _frame(TEXT, self._lot.choice(parts))

    def _odd(self) -> bytes:
        lot, connect = self._lot, self._connect
        odd = [
            bytes([lot.randrange(256)]) + _length(len(connect)) + lot.randbytes(4) + connect,
            bytes([FINAL | TEXT, len(connect) % 126]) + connect,  # not masked
            _frame(lot.choice([TEXT, BINARY, CONTINUATION]), connect, final=False),
        ]
        return lot.choice(odd)

    def _lie(self) -> bytes:
        sizes = [0, 200, 65_535, 6 * MIB, 6 * MIB + 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]
        size = self._lot.choice(sizes).to_bytes(8, "big")
        return bytes([FINAL | TEXT, MASKED | 127]) + size + bytes(4) + self._connect
