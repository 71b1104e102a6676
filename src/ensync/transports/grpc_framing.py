"""What gRPC puts into HTTP/2: messages behind a prefix, and a status in the trailers."""

from __future__ import annotations

from typing import TypeAlias

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_grpc_message

__all__ = [
    "MAX_MESSAGE",
    "PREFIX",
    "Headers",
    "NotGrpc",
    "end_of_message",
    "framed",
    "is_grpc",
    "only_message",
    "read_status",
]

Headers: TypeAlias = list[tuple[str, str]]

PREFIX = 5  # bytes: one for compression, four for the length of the message
MAX_MESSAGE = 16 << 20

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


def end_of_message(buffer: bytes | bytearray, position: int) -> int | None:
    """Where the message ends that begins here; None while it is not complete.

    Raises:
        NotGrpc: It is compressed, or far too large.
    """
    start = position + PREFIX
    if len(buffer) < start:
        return None
    if buffer[position]:
        raise NotGrpc("a compressed message")
    size = int.from_bytes(buffer[position + 1 : start], "big")
    if size > MAX_MESSAGE:
        raise NotGrpc(f"a message of {size} bytes")
    return start + size if len(buffer) >= start + size else None


def only_message(body: bytes) -> bytes:
    """The message of a reply.

    Raises:
        NotGrpc: There is none, or more than one, or it is compressed.
    """
    size = len(body) - PREFIX
    if size < 0 or body[0] or int.from_bytes(body[1:PREFIX], "big") != size:
        raise NotGrpc("a reply that is not one uncompressed message")
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
