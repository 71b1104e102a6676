"""Header blocks of HTTP/2 that are remembered instead of coded again.

A client that announces a header table of size 0, and writes its own blocks without
the table, makes every block depend on nothing but itself. The few different ones
that a gRPC connection knows are then coded once. For all others this is hpack.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hpack

__all__ = ["RememberingDecoder", "RememberingEncoder"]

# Few are needed; more are a client's doing, and must not fill the memory.
_MOST_BLOCKS = 256
_LONGEST_BLOCK = 1024

# How a change of the table's size begins, which stands only at the beginning of a
# block (RFC 7541, 4.2 and 6.3).
_FIRST_BITS, _TABLE_SIZE_UPDATE = 0xE0, 0x20


class RememberingEncoder(hpack.Encoder):
    """Writes header blocks."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[Any, bytes] = {}

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """Writes a header block."""
        if self.header_table_size or self.header_table.resized:
            return super().encode(headers, huffman)
        key = (tuple(headers), huffman)
        block = self._blocks.get(key)
        if block is None:
            block = super().encode(headers, huffman)
            _remember(self._blocks, key, block, len(block))
        return block


class RememberingDecoder(hpack.Decoder):
    """Reads header blocks."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self._headers: dict[Any, list[Any]] = {}

    def decode(self, data: bytes, raw: bool = False) -> Iterable[Any]:
        """Reads a header block."""
        if _changes_table_size(data):
            # What was read without leaving a trace in the table may leave one now.
            self._headers.clear()
            return super().decode(data, raw)
        if self.header_table.dynamic_entries:
            return super().decode(data, raw)
        known = self._headers.get((data, raw))
        if known is not None:
            return list(known)
        headers = list(super().decode(data, raw))
        if not self.header_table.dynamic_entries:
            _remember(self._headers, (bytes(data), raw), headers, len(data))
        return headers


def _changes_table_size(block: bytes) -> bool:
    return bool(block) and block[0] & _FIRST_BITS == _TABLE_SIZE_UPDATE


def _remember(memory: dict[Any, Any], key: Any, value: Any, size: int) -> None:
    if size > _LONGEST_BLOCK:
        return
    if len(memory) >= _MOST_BLOCKS:
        memory.clear()
    memory[key] = value
