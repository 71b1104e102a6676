"""What gRPC puts into HTTP/2: messages behind a prefix, and a status in the trailers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_grpc_message

from ensync.transports.grpc_codings import (
    CODINGS,
    ENCODING,
    WORTH_COMPRESSING,
    BadCompression,
    compress,
    decompress,
)

__all__ = [
    "COMPRESSED",
    "MAX_MESSAGE",
    "PREFIX",
    "UNCOMPRESSED",
    "Framing",
    "Headers",
    "NotGrpc",
    "decompressed",
    "end_of_message",
    "framed",
    "framing_in",
    "is_grpc",
    "only_message",
    "read_status",
]

Headers: TypeAlias = list[tuple[str, str]]
Framing: TypeAlias = Callable[[bytes], bytes]

PREFIX = 5  # bytes: one for compression, four for the length of the message
MAX_MESSAGE = 16 << 20
UNCOMPRESSED, COMPRESSED = 0, 1  # the first byte of the prefix

_CONTENT_TYPES = ("application/grpc", "application/grpc+proto")
# What an answer means that comes from something in between, as gRPC has it.
_HTTP_STATUSES = {
    "400": Status.INTERNAL,
    "401": Status.UNAUTHENTICATED,
    "403": Status.PERMISSION_DENIED,
    "404": Status.UNIMPLEMENTED,
    "429": Status.UNAVAILABLE,
    "502": Status.UNAVAILABLE,
    "503": Status.UNAVAILABLE,
    "504": Status.UNAVAILABLE,
}


class NotGrpc(Exception):
    """The answer is HTTP/2, and no gRPC."""


def framed(message: bytes) -> bytes:
    """A message as it is sent, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def framing_in(coding: str) -> Framing:
    """How messages are sent where they may be compressed; no coding stands for never."""
    return partial(_framed_in, coding) if coding else framed


def _framed_in(coding: str, message: bytes) -> bytes:
    if len(message) < WORTH_COMPRESSING:
        return framed(message)
    compressed = compress(message, coding)
    if len(compressed) >= len(message):
        return framed(message)
    return b"\1" + len(compressed).to_bytes(4, "big") + compressed


def decompressed(message: bytes, headers: Headers | None) -> bytes:
    """What is in a compressed message of an answer that begins so.

    Raises:
        NotGrpc: It does not begin with a known coding, or the message is not in it, or is
            far too large.
    """
    coding = dict(headers or ()).get(ENCODING)
    if coding not in CODINGS:
        raise NotGrpc(f"a compressed message, where the coding is {coding!r}")
    try:
        return decompress(message, coding, MAX_MESSAGE)
    except BadCompression as error:
        raise NotGrpc(f"a compressed message that can't be read: {error}") from error


def end_of_message(
    buffer: bytes | bytearray, position: int, last_flag: int = UNCOMPRESSED
) -> int | None:
    """Where the message ends that begins here; None while it is not complete.

    Args:
        buffer: What has come.
        position: Where in it the message begins.
        last_flag: COMPRESSED where compressed messages are taken.

    Raises:
        NotGrpc: It is compressed and may not be, or far too large.
    """
    start = position + PREFIX
    if len(buffer) < start:
        return None
    if buffer[position] > last_flag:
        raise NotGrpc("a compressed message")
    size = int.from_bytes(buffer[position + 1 : start], "big")
    if size > MAX_MESSAGE:
        raise NotGrpc(f"a message of {size} bytes")
    return start + size if len(buffer) >= start + size else None


def only_message(body: bytes, last_flag: int = UNCOMPRESSED) -> bytes:
    """The message of a reply, as it came.

    Raises:
        NotGrpc: There is none, or more than one, or it is compressed and may not be.
    """
    size = len(body) - PREFIX
    if size < 0 or body[0] > last_flag or int.from_bytes(body[1:PREFIX], "big") != size:
        kind = "message" if last_flag else "uncompressed message"
        raise NotGrpc(f"a reply that is not one {kind}")
    return body[PREFIX:]


def is_grpc(headers: Headers | None) -> bool:
    """Whether an answer that begins so is one of gRPC."""
    found = dict(headers or ())
    return found.get(":status") == "200" and _is_grpc_content(found.get("content-type", ""))


def _is_grpc_content(content_type: str) -> bool:
    if content_type in _CONTENT_TYPES:
        return True
    return content_type.partition(";")[0].strip().lower() in _CONTENT_TYPES


def read_status(headers: Headers | None, trailers: Headers | None) -> GRPCError | None:
    """What the answer says in the end; None for OK.

    Raises:
        NotGrpc: It says nothing.
    """
    begin = dict(headers or ())
    http_status = begin.get(":status")
    if http_status != "200":
        status = _HTTP_STATUSES.get(http_status or "", Status.UNKNOWN)
        return GRPCError(status, f"the HTTP status {http_status}")
    content_type = begin.get("content-type", "")
    if not _is_grpc_content(content_type):
        raise NotGrpc(f"the content type {content_type!r}")
    end = begin if trailers is None else dict(trailers)
    code = end.get("grpc-status")
    if code == "0":
        return None
    try:
        status = Status(int(code or ""))
    except ValueError:
        raise NotGrpc(f"the gRPC status {code!r}") from None
    if status is Status.OK:
        return None
    return GRPCError(status, decode_grpc_message(end.get("grpc-message", "")) or None)
