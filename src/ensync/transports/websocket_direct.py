"""Messages straight from and to a connection of the websockets library, with no task between.

What the library reads is told in the same turn of the loop, and what is written leaves in
one piece. A message that can't be told so comes by the library's public ``recv()``, as all
would if it did not call any more what is overridden here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State

from ensync.transports.cork import Cork

__all__ = ["DirectConnection", "Message"]

Message: TypeAlias = str | bytes

_BEGINS_A_MESSAGE = frozenset((Opcode.TEXT, Opcode.BINARY))


class DirectConnection(ClientConnection):
    """A connection that tells of messages as they are read.

    Attributes:
        reads: How often something was read: a message that is still arriving is a sign of
            life too.
        written: How many bytes were written, as messages and what frames them.
        queued: How many messages wait for :meth:`queued_message`; the last may have begun only.
    """

    reads = 0
    written = 0
    queued = 0
    _is_full = False
    _cork: Cork | None = None
    _on_message: Callable[[Message], None]
    _on_closing: Callable[[], None]

    def attach(
        self, cork: Cork, on_message: Callable[[Message], None], on_closing: Callable[[], None]
    ) -> None:
        """Tells from now on; messages that came before are queued. No callback may raise.

        Args:
            cork: Held while something is read, and flushed when the socket takes more again.
            on_message: Gets each message.
            on_closing: Called, perhaps often, when the connection takes no more and is about to
                end; at once, where it is so already.
        """
        self._on_message = on_message
        self._on_closing = on_closing
        self._cork = cork
        self._tell_if_closing()

    def _tell_if_closing(self) -> None:
        if self._cork is not None and self.protocol.state is not State.OPEN:
            self._on_closing()

    # Reading

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        cork = self._cork
        if cork is None:
            super().data_received(data)
            return
        cork.hold()
        try:
            super().data_received(data)
            self._tell_if_closing()
        finally:
            cork.release()

    def eof_received(self) -> None:
        super().eof_received()
        # What could not be written yet keeps the connection from being lost.
        self._tell_if_closing()

    def process_event(self, event: Request | Response | Frame) -> None:
        if isinstance(event, Frame):
            if self._hand_over(event):
                return
            if event.opcode in _BEGINS_A_MESSAGE:
                self.queued += 1
        super().process_event(event)

    def _hand_over(self, frame: Frame) -> bool:
        # A message that is in pieces, and what comes after it until it is taken, keep their
        # order in the queue.
        if frame.opcode is not Opcode.TEXT or not frame.fin or self.queued or self._cork is None:
            return False
        try:
            text = str(frame.data, "utf-8")
        except UnicodeDecodeError:
            return False  # recv() knows what to do about it
        self._on_message(text)
        return True

    async def queued_message(self) -> Message:
        """Waits for a message that could not be told at once.

        Raises:
            ConnectionClosed: The connection is over.
        """
        message = await self.recv()
        self.queued -= 1
        return message

    # Writing

    @property
    def takes_more(self) -> bool:
        """Whether it is open, and not too much is still to be written."""
        return (
            not self._is_full
            and self.protocol.state is State.OPEN
            and not self.transport.is_closing()
        )

    def write(self, messages: Iterable[str]) -> None:
        """Writes messages with one call of the system, which is possible if it takes more."""
        for message in messages:
            self.protocol.send_text(message.encode())
        data = b"".join(self.protocol.data_to_send())
        self.written += len(data)
        self.transport.write(data)

    def pause_writing(self) -> None:
        self._is_full = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._is_full = False
        super().resume_writing()
        if self._cork is not None:
            self._cork.flush()
