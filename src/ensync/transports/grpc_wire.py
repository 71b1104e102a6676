"""Calls and streams on one HTTP/2 connection: what they are, and how they may be carried."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import betterproto2
from grpclib.exceptions import GRPCError

from ensync.errors import EnSyncConnectionError

__all__ = ["ServerStream", "StreamResult", "UnaryCall", "UnaryResult", "Wire", "WireOwner"]

UnaryResult: TypeAlias = betterproto2.Message | GRPCError | EnSyncConnectionError
StreamResult: TypeAlias = GRPCError | EnSyncConnectionError | None


def _nothing() -> None:
    """What is to be undone of an exchange that has not begun."""


class WireOwner(Protocol):
    """A connection, as what it carries sees it."""

    def call_ended(self, call: UnaryCall) -> None: ...

    def stream_ended(self, stream: ServerStream) -> None: ...

    def translate(self, error: Exception) -> EnSyncConnectionError:
        """What an exception of the libraries below means, in our own words."""
        ...

    def wrong(self, what: str) -> EnSyncConnectionError:
        """The engine does something that it must not."""
        ...


class UnaryCall:
    """A request on its way, and whom to tell of its end."""

    __slots__ = ("_on_result", "_on_sent", "_owner", "message", "path", "reply_type", "undo")

    def __init__(
        self,
        owner: WireOwner,
        path: str,
        message: betterproto2.Message,
        reply_type: type[betterproto2.Message],
        on_result: Callable[[UnaryResult], None],
        on_sent: Callable[[bool], None] | None,
    ) -> None:
        self.path = path
        self.message = message
        self.reply_type = reply_type
        self.undo: Callable[[], object] = _nothing
        self._owner = owner
        self._on_sent = on_sent
        self._on_result: Callable[[UnaryResult], None] | None = on_result

    def leaves(self) -> None:
        """From here on the engine may see the request."""
        if self._on_sent is not None:
            self._on_sent(True)

    def never_heard(self) -> None:
        """The engine says that it has done nothing about the request, and will not."""
        if self._on_sent is not None:
            self._on_sent(False)

    def finish(self, result: UnaryResult) -> None:
        """Ends the call, once."""
        on_result, self._on_result = self._on_result, None
        if on_result is not None:
            self._forget()
            try:
                on_result(result)
            finally:
                # Last, as this may end the connection, and all that has no result.
                self._owner.call_ended(self)

    def cancel(self) -> None:
        """Gives the call up without a word."""
        if self._on_result is not None:
            self._on_result = None
            self.undo()
            self._forget()
            self._owner.call_ended(self)

    def _forget(self) -> None:
        # Who is told holds this call, too: circles would be left to the garbage collector.
        self.undo = _nothing
        self._on_sent = None


class ServerStream:
    """A request that is answered by messages until somebody ends it."""

    __slots__ = (
        "_owner",
        "ended",
        "message",
        "message_type",
        "on_end",
        "on_message",
        "on_open",
        "path",
        "reader",
        "undo",
    )

    def __init__(  # noqa: PLR0917 - each is needed
        self,
        owner: WireOwner,
        path: str,
        message: betterproto2.Message,
        message_type: type[betterproto2.Message],
        on_open: Callable[[], None],
        on_message: Callable[[Any], None],
        on_end: Callable[[StreamResult], None],
    ) -> None:
        self.path = path
        self.message = message
        self.message_type = message_type
        self.on_open = on_open
        self.on_message = on_message
        self.on_end = on_end
        self.reader: StreamReader | None = None
        self.undo: Callable[[], object] = _nothing
        self.ended = False
        self._owner = owner

    def finish(self, result: StreamResult) -> None:
        """The engine or the connection has ended the stream."""
        if not self.ended:
            self.ended = True
            self._owner.stream_ended(self)
            self.on_end(result)

    def cancel(self) -> None:
        """Ends the stream from this side, without a word."""
        if not self.ended:
            self.ended = True
            self.undo()
            self._owner.stream_ended(self)

    def hold(self) -> None:
        """Stops reading, so that the engine is held back by flow control."""
        if self.reader is not None:
            self.reader.hold()

    def release(self) -> None:
        """Reads on."""
        if self.reader is not None:
            self.reader.release()


class StreamReader(Protocol):
    """What reads a stream can be stopped."""

    def hold(self) -> None: ...

    def release(self) -> None: ...


class Wire(ABC):
    """A way to carry calls and streams over a connection.

    What it carries sets its ``undo`` and its ``reader``, and is finished by it.
    """

    @abstractmethod
    def start_call(self, call: UnaryCall) -> None: ...

    @abstractmethod
    def start_stream(self, stream: ServerStream) -> None: ...

    def writable(self) -> bool:
        """Whether another call would be written at once."""
        return True
