"""Gathers what is written in a turn of the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["CorkedTransport"]

# More than this at once gains nothing.
_FLUSH_BYTES = 64 * 1024


class CorkedTransport:
    """An asyncio transport that gathers small writes.

    A unary reply is three frames that grpclib writes one by one; a system call for each
    would cost more than all the rest.

    Attributes:
        written: How many bytes were written to it so far.
    """

    def __init__(self, transport: Any, call_soon: Callable[[Callable[[], object]], None]) -> None:
        self._transport = transport
        self._call_soon = call_soon
        self._gathered: list[bytes] = []
        self._size = 0
        self.written = 0
        self._frozen = False
        self._passes_next = False

    @property
    def unsent_bytes(self) -> int:
        """How much was written that the system has not taken yet."""
        buffered: int = self._transport.get_write_buffer_size()
        return buffered + self._size

    def write(self, data: bytes) -> None:
        if self._frozen or self._transport.is_closing():
            return
        self.written += len(data)
        if not self._gathered:
            if self._passes_next:
                self._passes_next = False
                self._transport.write(data)
                return
            self._call_soon(self._flush)
        self._gathered.append(data)
        self._size += len(data)
        if self._size >= _FLUSH_BYTES:
            self._flush()

    def pass_next(self) -> None:
        """Writes what comes next at once, unless there is something to gather it with.

        After something was read, this saves who asks one thing at a time a turn of the
        loop, and costs who asks many at once one more write for each time they are answered.
        """
        self._passes_next = True

    def close(self) -> None:
        """Closes when all that was written is sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        self._forget()
        self._transport.abort()

    def freeze(self) -> None:
        """Reads and writes nothing any more."""
        self._frozen = True
        self._forget()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def is_closing(self) -> bool:
        closing: bool = self._transport.is_closing()
        return closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        if self._gathered:
            data = b"".join(self._gathered)
            self._forget()
            self._transport.write(data)

    def _forget(self) -> None:
        self._gathered.clear()
        self._size = 0
