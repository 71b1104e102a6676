"""gRPC's codings of single messages: deflate, in a zlib wrapping (RFC 1950), and gzip (RFC 1952).

What is compressed here is mostly encrypted, and then written in base64: only what that has
added can be taken away again, and it takes no effort to find.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

__all__ = [
    "ACCEPTED",
    "ACCEPT_ENCODING",
    "CODINGS",
    "ENCODING",
    "WORTH_COMPRESSING",
    "BadCompression",
    "TooLarge",
    "accepted_coding",
    "codings_in",
    "compress",
    "decompress",
]

# The names of headers, and what both ends of this project say in the second.
ENCODING = "grpc-encoding"
ACCEPT_ENCODING = "grpc-accept-encoding"
ACCEPTED = "deflate, gzip, identity"

# Smaller are acknowledgements, heartbeats and most replies: identifiers, which do not shrink,
# or not by as much as the trying costs.
WORTH_COMPRESSING = 256  # bytes

# The better one first: the wrapping of gzip is twelve bytes longer. Beside them what zlib
# adds to the size of the window for it.
_WRAPPINGS = {"deflate": 0, "gzip": 16}
CODINGS = tuple(_WRAPPINGS)

_LEVEL = 1  # 9 takes one byte in two hundred more, of an event
# What zlib prepares by default, a window of 32 KiB and tables of as much, takes longer than
# compressing an event does. With a window of 4 KiB and small tables it is half of the time
# in all, and what comes out is as small.
_WINDOW_BITS = 12
_MEMORY_LEVEL = 6


class BadCompression(Exception):
    """This is not one message, whole and nothing more, in its coding."""


class TooLarge(BadCompression):
    """More would come out than may."""


def codings_in(accepted: str) -> list[str]:
    """The codings that a list of a peer's names, the best one first."""
    named = {name.strip() for name in accepted.split(",")}
    return [coding for coding in CODINGS if coding in named]


def accepted_coding(headers: Iterable[tuple[str, str]]) -> str | None:
    """The best coding that a peer takes; an empty text for none, None where it does not say."""
    lists = [value for name, value in headers if name == ACCEPT_ENCODING]
    return next(iter(codings_in(",".join(lists))), "") if lists else None


def compress(data: bytes, coding: str) -> bytes:
    """Compresses a message."""
    bits = _WINDOW_BITS + _WRAPPINGS[coding]
    compressor = zlib.compressobj(_LEVEL, wbits=bits, memLevel=_MEMORY_LEVEL)
    return compressor.compress(data) + compressor.flush()


def decompress(data: bytes, coding: str, most: int) -> bytes:
    """Decompresses a message, of which no more is made than may be.

    Args:
        data: All of the compressed message.
        coding: One of CODINGS.
        most: So many bytes may come out.

    Raises:
        BadCompression: It can't be read, it ends too early, or something comes after it.
        TooLarge: It is longer.
    """
    decompressor = zlib.decompressobj(zlib.MAX_WBITS + _WRAPPINGS[coding])
    try:
        # One byte more tells what fits exactly, of which the checksum is still to be read.
        message = decompressor.decompress(data, most + 1)
    except zlib.error as error:
        raise BadCompression(f"it is no {coding}: {error}") from error
    if len(message) > most:
        raise TooLarge(f"decompressed it has more than {most} bytes")
    if not decompressor.eof:
        raise BadCompression("it ends too early")
    if decompressor.unused_data:
        raise BadCompression("something comes after it")
    return message
