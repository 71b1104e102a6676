"""HTTP/2 frames as bytes (RFC 9113, 4 and 6), and the numbers in them."""

from __future__ import annotations

import struct

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "DEFAULT_WINDOW",
    "END_HEADERS",
    "END_STREAM",
    "FRAME_HEADER",
    "FRAME_HEADER_SIZE",
    "GOAWAY",
    "HAS_PRIORITY",
    "HEADERS",
    "MAX_FRAME_SIZE",
    "MAX_STREAM_ID",
    "MAX_WINDOW",
    "MIN_FRAME_SIZE",
    "PADDED",
    "PING",
    "PING_SIZE",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_SIZE",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTING",
    "SETTINGS",
    "U32",
    "WINDOW_UPDATE",
    "error_code",
    "frame",
    "number_frame",
    "without_padding",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER = struct.Struct(">HBBBI")  # length in two parts, type, flags, stream
FRAME_HEADER_SIZE = 9
SETTING = struct.Struct(">HI")
U32 = struct.Struct(">I")
PRIORITY_SIZE = 5
PING_SIZE = 8

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

DEFAULT_WINDOW = 65_535
MAX_WINDOW = (1 << 31) - 1
MAX_STREAM_ID = (1 << 31) - 1
MIN_FRAME_SIZE = 16_384  # of the largest frame: what every peer takes
MAX_FRAME_SIZE = (1 << 24) - 1


def frame(kind: int, flags: int, stream_id: int, body: bytes | memoryview = b"") -> bytes:
    """One frame."""
    size = len(body)
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + body


def number_frame(kind: int, stream_id: int, number: int) -> bytes:
    """A frame that says a number, such as a WINDOW_UPDATE."""
    return FRAME_HEADER.pack(0, U32.size, kind, 0, stream_id) + U32.pack(number)


def without_padding(body: bytes) -> bytes:
    """What a padded frame holds.

    Raises:
        ProtocolError: There is more padding than frame.
    """
    if not body or body[0] >= len(body):
        raise ProtocolError("padding that is longer than its frame")
    return body[1 : len(body) - body[0]]


def error_code(code: int) -> ErrorCodes | int:
    """An error code by its name, where it has one."""
    try:
        return ErrorCodes(code)
    except ValueError:
        return code
