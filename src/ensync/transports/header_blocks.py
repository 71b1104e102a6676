"""Header blocks (RFC 7541), written and read at the cost of a dictionary's look-up.

HPACK makes each block depend on all that came before. Not so here, as far as the
peers go along:

- What is written does not use the dynamic table, so that a block depends on its
  headers alone and is put together once for each distinct list of them.
- A header table of size 0 is announced. Once the server's table has that size, its
  blocks depend on nothing before them, and one that was seen before is looked up.
  A server that keeps its table is understood all the same.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import hpack
from h2.exceptions import DenialOfServiceError, ProtocolError

__all__ = ["INVALID_LENGTH", "NO_LENGTH", "BlockReader", "BlockWriter", "HeaderBlock", "Headers"]

Headers: TypeAlias = list[tuple[str, str]]

DEFAULT_TABLE_SIZE = 4096
_MAX_LIST_SIZE = 65_536
_REMEMBERED_BLOCKS = 256
_REMEMBERED_SIZE = 1024  # bytes; longer blocks are rare, and not kept
_SHRINK_TABLE = b"\x20"  # a dynamic table size update to 0 (RFC 7541, 6.3)
_SIZE_UPDATE = 0b001

NO_LENGTH, INVALID_LENGTH = -1, -2


class BlockWriter:
    """Writes literals without indexing and without the Huffman code (RFC 7541, 6.2.2)."""

    def __init__(self) -> None:
        self._remembered: dict[tuple[tuple[str, str], ...], bytes] = {}
        self._table_size = DEFAULT_TABLE_SIZE
        self._table_update = b""

    def limit_table(self, size: int) -> None:
        """The server allows a dynamic table of so many bytes."""
        # It is never used, but must be said to shrink when it is larger than allowed.
        if size < self._table_size:
            self._table_size = 0
            self._table_update = _SHRINK_TABLE

    def write(self, headers: Headers) -> bytes:
        """The block for a list of headers in ASCII."""
        key = tuple(headers)
        block = self._remembered.get(key) or self._encode(key)
        if self._table_update:
            block, self._table_update = self._table_update + block, b""
        return block

    def _encode(self, headers: tuple[tuple[str, str], ...]) -> bytes:
        block = b"".join(_literal(name, value) for name, value in headers)
        if len(self._remembered) >= _REMEMBERED_BLOCKS:
            self._remembered.clear()
        self._remembered[headers] = block
        return block


def _literal(name: str, value: str) -> bytes:
    return b"\0" + _string(name.encode("ascii")) + _string(value.encode("ascii"))


def _string(text: bytes) -> bytes:
    size, prefix = len(text), 127
    if size < prefix:
        return bytes((size,)) + text
    out, size = bytearray((prefix,)), size - prefix
    while size > prefix:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + text


class HeaderBlock(NamedTuple):
    """The headers of a block, and what HTTP/2 has to know of them."""

    headers: Headers
    informational: bool
    length: int  # of the body, as promised; or NO_LENGTH, or INVALID_LENGTH


class BlockReader:
    """Reads the server's blocks, in the order in which they come."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=_MAX_LIST_SIZE)
        self._remembered: dict[bytes, HeaderBlock] = {}
        self._is_stateless = False

    def read(self, block: bytes) -> HeaderBlock:
        """Reads one block.

        Raises:
            ProtocolError: It can't be read, or holds too much.
        """
        if not self._is_stateless:
            return self._decode(block)
        known = self._remembered.get(block)
        if known is None:
            known = self._decode(block)
            self._remember(block, known)
        return known

    def _decode(self, block: bytes) -> HeaderBlock:
        try:
            raw = self._decoder.decode(block, raw=True)
            headers = [(bytes(n).decode("ascii"), bytes(v).decode("ascii")) for n, v in raw]
        except hpack.OversizedHeaderListError as error:
            raise DenialOfServiceError(f"oversized header block: {error}") from error
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ProtocolError(f"a header block that can't be read: {error}") from error
        self._is_stateless = self._decoder.header_table_size == 0
        return HeaderBlock(headers, _is_informational(headers), _promised_length(headers))

    def _remember(self, block: bytes, read: HeaderBlock) -> None:
        # A change of the table's size must be seen each time. A block without one says
        # nothing about the table, while there is none.
        changes_table = block[:1] and block[0] >> 5 == _SIZE_UPDATE
        if changes_table or len(block) > _REMEMBERED_SIZE:
            return
        if len(self._remembered) >= _REMEMBERED_BLOCKS:
            self._remembered.clear()
        self._remembered[block] = read


def _is_informational(headers: Headers) -> bool:
    for name, value in headers:
        if name == ":status":
            return value.startswith("1")
        if not name.startswith(":"):
            break
    return False


def _promised_length(headers: Headers) -> int:
    lengths = {value for name, value in headers if name == "content-length"}
    if not lengths:
        return NO_LENGTH
    try:
        numbers = {int(length) if length.isdigit() else INVALID_LENGTH for length in lengths}
    except ValueError:  # more digits than Python reads
        return INVALID_LENGTH
    return numbers.pop() if len(numbers) == 1 else INVALID_LENGTH
