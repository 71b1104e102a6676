"""HTTP/2 as no library would write it: nearly right, or wrong on purpose."""

from __future__ import annotations

import random
import zlib

from hpack import Encoder

from ensync.proto.ensync import ConnectRequest
from ensync.transports.grpc_codings import compress
from tests.faults.fuzz_line import Prey, lied_to, spoilt
from tests.unit.server.raw_http2 import framed

__all__ = [
    "BEGINNING",
    "PIECES",
    "PREFACE",
    "SERVICE",
    "FrameMaker",
    "frame",
    "recorded",
    "request_body",
    "spoilt_headers",
]

SERVICE = "/ensync.EnSyncService/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BEGINNING = PREFACE + b"\0\0\0\4\0\0\0\0\0"  # and no settings
LARGEST_FRAME = 16_384
MIB = 1 << 20
BOMB = zlib.compress(bytes(6 * MIB + 1))

PIECES = [
    *(
        b"\0",
        b"\xff",
        b"\xff" * 10,
        b"\x80" * 10 + b"\1",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x7a\3abc",
    ),
    *(b"\x08\1", b"\x0b", b"\x0c", b"\xc3\x28", b"\xed\xa0\x80", b"\x20" + b"\xff" * 9 + b"\1"),
    *(b"\x0a\0", b"\x22\4\xf0\x9d\x84\x9e", b"A" * 600, b'{"ttl":-1}', b"[" * 3000, b"NaN"),
]

Headers = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream_id: int, payload: bytes, size: int | None = None) -> bytes:
    """A frame, whose length may be a lie."""
    size = len(payload) if size is None else size
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def recorded(app_key: str) -> bytes:
    """What a client says in order to connect."""
    block = Encoder().encode(_headers("Connect"))
    body = framed(bytes(ConnectRequest(access_key=app_key)))
    return BEGINNING + frame(1, 4, 1, block) + frame(0, 1, 1, body)


def request_body(lot: random.Random, message: bytes, coding: str = "") -> tuple[bytes, bool]:
    """The bytes of a request, and whether it is said that there are no more of them."""
    if lot.random() < 0.7:
        message = lied_to(lot, message, PIECES)
    if coding and lot.random() < 0.7:
        return framed(_compressed(lot, message, coding)[:15_000], compressed=1), True
    body = framed(message[:15_000])
    if lot.random() < 0.75:
        return body, True
    lies = [
        framed(message, size=lot.choice([0, len(message) + 1, 6 * MIB + 1, 2**32 - 1])),
        framed(message, compressed=lot.choice([1, lot.randrange(256)])),
        body + body,
        body[: lot.randrange(len(body))],
        lot.randbytes(lot.randrange(40)),
    ]
    return lot.choice(lies)[:16_000], lot.random() < 0.8


def _compressed(lot: random.Random, message: bytes, coding: str) -> bytes:
    if lot.random() < 0.02:
        return BOMB
    data = compress(message, coding)
    return lied_to(lot, data, PIECES) if lot.random() < 0.4 else data


def spoilt_headers(lot: random.Random, method: str) -> Headers:
    """The headers of a call, with some doubled, changed, or left out."""
    headers = _headers(method)
    for _ in range(lot.randint(1, 3)):
        place = lot.randrange(len(headers))
        name, value = headers[place]
        strange: list[Headers] = [
            [],
            [(name, value)] * 2,
            [(name.upper(), value)],
            [(name, lot.randbytes(8))],
            [(lot.randbytes(4), value)],
            [(name, spoilt(lot, value, PIECES))],
            [(name, value), (b"grpc-timeout", lot.choice([b"1S", b"-1n", b"9" * 20, b"x"]))],
            [(name, value), (b"grpc-encoding", lot.choice([b"gzip", b"snappy", b"\xff"]))],
            [(name, value), (b"x-long", b"y" * lot.choice([100, 5000, 15_000]))],
            [(name, value), (b"content-length", lot.choice([b"0", b"-1", b"x", b"9" * 30]))],
        ]
        headers[place : place + 1] = lot.choice(strange)
        headers = headers or _headers(method)
    return headers


def _headers(method: str) -> Headers:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", (SERVICE + method).encode()),
        (b":authority", b"test"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]


class FrameMaker:
    """Makes the frames of one connection."""

    def __init__(self, lot: random.Random, prey: Prey) -> None:
        self._lot = lot
        self._connect = bytes(ConnectRequest(access_key=prey.app.app_key))
        self._encoder = Encoder()

    def frame(self) -> bytes:
        """A frame of any kind, which may be spoilt."""
        lot = self._lot
        make = lot.choices(
            [self._headers, self._header_garbage, self._data, self._settings, self._small],
            [2, 1, 2, 1, 2],
        )[0]
        kind, flags, stream_id, payload = make()
        if lot.random() < 0.1:
            kind = lot.randrange(256)
        if lot.random() < 0.1:
            flags = lot.randrange(256)
        if lot.random() < 0.1:
            stream_id = lot.choice([0, 2, 3, 2**31 - 1, 2**32 - 1, lot.getrandbits(32)])
        if lot.random() < 0.1:
            payload = lied_to(lot, payload, PIECES)
        lie = lot.choice([0, 1, len(payload) + 7, 2**24 - 1]) if lot.random() < 0.05 else None
        return frame(kind, flags, stream_id, payload[:LARGEST_FRAME], lie)

    def _stream_id(self) -> int:
        return 2 * self._lot.randrange(20) + 1

    def _headers(self) -> tuple[int, int, int, bytes]:
        block = self._encoder.encode(_headers(self._lot.choice(["Connect", "Subscribe", "Drop"])))
        return 1, self._lot.choice([0, 1, 4, 4, 4, 5]), self._stream_id(), block

    def _header_garbage(self) -> tuple[int, int, int, bytes]:
        lot = self._lot
        block = lot.choice(
            [
                lot.randbytes(lot.randrange(1, 60)),
                lied_to(lot, self._encoder.encode(_headers("Connect")), PIECES),
                b"\x3f\xe1" + b"\xff" * lot.randrange(20),  # a size of the table that never ends
                b"\x20\x3f\xe1\x1f" * 8,  # sizes of the table, again and again
                b"\xff" + b"\x80" * 30,  # an index that never ends
                bytes([0x80 | lot.randrange(128)]) * 50,  # fields that may not be in the table
                b"\x40\x01a\x7f\x80\x7f" + b"b" * 300 + b"\xbe" * 15_000,  # little that says a lot
                b"\x00\x85" + lot.randbytes(5) + b"\x85" + lot.randbytes(5),  # Huffman's
            ]
        )
        return 1, lot.choice([0, 4, 5]), self._stream_id(), block

    def _data(self) -> tuple[int, int, int, bytes]:
        body, _ = request_body(self._lot, self._connect)
        return 0, self._lot.choice([0, 1, 8, 9]), self._stream_id(), body

    def _settings(self) -> tuple[int, int, int, bytes]:
        lot = self._lot
        values = [0, 1, 100, 2**14, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1]
        pairs = [(lot.randrange(10), lot.choice(values)) for _ in range(lot.randrange(4))]
        text = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs)
        return 4, lot.choice([0, 0, 0, 1]), 0, text

    def _small(self) -> tuple[int, int, int, bytes]:
        lot, stream_id = self._lot, self._stream_id()
        increment = lot.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1]).to_bytes(4, "big")
        return lot.choice(
            [
                (6, lot.randrange(2), 0, lot.randbytes(8)),  # PING
                (8, 0, lot.choice([0, stream_id]), increment),  # WINDOW_UPDATE
                (3, 0, stream_id, lot.randbytes(4)),  # RST_STREAM
                (2, 0, stream_id, lot.randbytes(5)),  # PRIORITY
                (5, 4, stream_id, lot.randbytes(20)),  # PUSH_PROMISE
                (7, 0, 0, lot.randbytes(8)),  # GOAWAY
                (9, lot.choice([0, 4]), stream_id, lot.randbytes(20)),  # CONTINUATION
                (10, 0, stream_id, b"\0\4test" + lot.randbytes(5)),  # ALTSVC
                (lot.randrange(11, 256), lot.randrange(256), stream_id, lot.randbytes(9)),
            ]
        )
