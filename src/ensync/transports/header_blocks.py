"""Header blocks (RFC 7541), coded once for as long as the header table stays as it is.

HPACK makes each block depend on all that came before, by way of a table that both
ends keep. A gRPC connection knows few different lists of headers, though: once each
has been sent, they stand in the table, which then stays as it is, and a block says
nothing new. From there on it costs a dictionary's look-up, and a few bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import hpack
from h2.exceptions import DenialOfServiceError, ProtocolError
from hpack.table import HeaderTable

__all__ = [
    "INVALID_LENGTH",
    "NO_LENGTH",
    "BlockReader",
    "HeaderBlock",
    "Headers",
    "RememberingDecoder",
    "RememberingEncoder",
]

Headers: TypeAlias = list[tuple[str, str]]

K = TypeVar("K")
V = TypeVar("V")

_MAX_LIST_SIZE = 65_536

# Few are needed; more are the peer's doing, and must not fill the memory.
_MOST_BLOCKS = 256
_LONGEST_BLOCK = 1024

NO_LENGTH, INVALID_LENGTH = -1, -2


class _Memory(Generic[K, V]):
    """What was coded with a table as it is now, and left it so."""

    def __init__(self, table: HeaderTable) -> None:
        self._table = table
        self._known: dict[K, V] = {}
        self._newest: object = None
        self._shape = (0, table.maxsize)
        self.get = self._known.get

    def keep(self, key: K, value: V, size: int) -> None:
        """Told of each block that was coded, right after it was."""
        entries = self._table.dynamic_entries
        # Every entry comes in at the front; which one it is tells equal ones apart.
        newest = entries[0] if entries else None
        shape = (len(entries), self._table.maxsize)
        if newest is not self._newest or shape != self._shape:
            self._newest, self._shape = newest, shape
            self._known.clear()
        elif size <= _LONGEST_BLOCK:
            if len(self._known) >= _MOST_BLOCKS:
                self._known.clear()
            self._known[key] = value

    def clear(self) -> None:
        self._known.clear()


class RememberingEncoder(hpack.Encoder):
    """Writes header blocks."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = _Memory[Any, bytes](self.header_table)

    @property
    def header_table_size(self) -> int:
        """The size of the table in bytes."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        # hpack, told the same size again, forgets that the peer has not been told of it yet.
        if value != self.header_table.maxsize:
            hpack.Encoder.header_table_size.fset(self, value)  # type: ignore[attr-defined]

    def limit_table(self, size: int) -> None:
        """The peer keeps a table of at most so many bytes; it is not made larger than it is."""
        self.header_table_size = min(size, self.header_table_size)

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """Writes a header block."""
        if self.header_table.resized:
            # This one has to tell of it.
            self._memory.clear()
            return super().encode(headers, huffman)
        key = (tuple(headers), huffman)
        block = self._memory.get(key)
        if block is None:
            block = super().encode(headers, huffman)
            self._memory.keep(key, block, len(block))
        return block


class RememberingDecoder(hpack.Decoder):
    """Reads header blocks."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self._memory = _Memory[Any, list[Any]](self.header_table)

    def decode(self, data: bytes, raw: bool = False) -> Iterable[Any]:
        """Reads a header block."""
        key = (data, raw)
        known = self._memory.get(key)
        if known is None:
            known = list(super().decode(data, raw))
            self._memory.keep(key, known, len(data))
        return list(known)


class HeaderBlock(NamedTuple):
    """The headers of a block, and what HTTP/2 has to know of them."""

    headers: Headers
    informational: bool
    length: int  # of the body, as promised; or NO_LENGTH, or INVALID_LENGTH


class BlockReader:
    """Reads the server's blocks, in the order in which they come.

    Attributes:
        known: Gives what a block says that needs no reading; None where it does.
    """

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=_MAX_LIST_SIZE)
        self._memory = _Memory[bytes, HeaderBlock](self._decoder.header_table)
        self.known = self._memory.get

    def read(self, block: bytes) -> HeaderBlock:
        """Reads one block.

        Raises:
            ProtocolError: It can't be read, or holds too much.
        """
        known = self.known(block)
        if known is None:
            known = self._decode(block)
            self._memory.keep(block, known, len(block))
        return known

    def _decode(self, block: bytes) -> HeaderBlock:
        try:
            raw = self._decoder.decode(block, raw=True)
            headers = [(bytes(n).decode("ascii"), bytes(v).decode("ascii")) for n, v in raw]
        except hpack.OversizedHeaderListError as error:
            raise DenialOfServiceError(f"oversized header block: {error}") from error
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ProtocolError(f"a header block that can't be read: {error}") from error
        return HeaderBlock(headers, _is_informational(headers), _promised_length(headers))


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
