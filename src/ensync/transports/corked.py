"""A transport that gathers what is written in a turn of the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ensync.transports.cork import ENOUGH_FOR_A_WRITE, CallSoon, Cork

__all__ = ["CorkedTransport"]


def _nothing() -> bytes:
    """What there is to be taken where nothing is ever announced."""
    return b""


class CorkedTransport(Cork):
    """An asyncio transport that gathers small writes.

    A unary reply is three frames that grpclib writes one by one; a system call for each
    would cost more than all the rest.

    Attributes:
        written: How many bytes were written to it, or announced, so far.
        source: Gives what was announced, and all else that is to be written by then.
    """

    def __init__(self, transport: Any, call_soon: CallSoon) -> None:
        super().__init__(call_soon)
        self._transport = transport
        self.source: Callable[[], bytes] = _nothing
        self._gathered: list[bytes] = []
        self._size = 0
        self._announced = 0
        self.written = 0
        self._frozen = False

    @property
    def unsent_bytes(self) -> int:
        """How much was written that the system has not taken yet."""
        buffered: int = self._transport.get_write_buffer_size()
        return buffered + self._size

    def write(self, data: bytes) -> None:
        if self._frozen or self._transport.is_closing():
            return
        self._gathered.append(data)
        self._grow(len(data))

    def announce(self, size: int) -> None:
        """Has about so many bytes taken from the source, together with what else is written."""
        self._announced += size
        self._grow(size)

    def _grow(self, size: int) -> None:
        self.written += size
        self._size += size
        if self._size >= ENOUGH_FOR_A_WRITE:
            self.flush()
        else:
            self.flush_soon()

    def close(self) -> None:
        """Closes when all that was written is sent."""
        self.flush()
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

    def flush(self) -> None:
        if not self._size:
            return
        if self._frozen or self._transport.is_closing():
            self._forget()
            return
        taken = self.source()
        self.written += len(taken) - self._announced
        self._gathered.append(taken)
        data = b"".join(self._gathered)
        self._forget()
        if data:
            self._transport.write(data)

    def _forget(self) -> None:
        self._gathered.clear()
        self._size = self._announced = 0
