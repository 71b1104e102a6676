"""The registrations made on one connection, and which of their streams may carry others' events.

An engine may send the events of all names on the first stream that a client has opened, and
use later ones to register their names only (PROTOCOL 3). It does not say so: it is learned
from what comes where.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio

from ensync.transports.base import Stream, StreamEnd, StreamEnded

__all__ = ["Registration", "Registrations"]


class Registration:
    """One interest that the engine was asked to register.

    Attributes:
        event_name: The name.
        stream: What it gave; None until the engine has agreed.
        ended: How it ended while there was no stream yet to end.
        is_left: Whether its subscription has gone, and it stays for what it may carry.
        asking: Around the wait for the engine; cancelled when its answer is of no use any more.
    """

    __slots__ = ("asking", "ended", "event_name", "is_left", "stream")

    def __init__(self, event_name: str) -> None:
        self.event_name = event_name
        self.stream: Stream | None = None
        self.ended: StreamEnded | None = None
        self.is_left = False
        self.asking = anyio.CancelScope()

    @property
    def is_void(self) -> bool:
        """Whether the engine was asked in vain."""
        return self.asking.cancel_called


class Registrations:
    """Those of one connection whose streams are open or asked for, in the order of asking.

    Attributes:
        multiplexing: Whether events come on other streams than their own; None while not known.
    """

    def __init__(self) -> None:
        self.multiplexing: bool | None = None
        self._open: dict[Registration, None] = {}
        self._seen_carrying: Registration | None = None
        self._changed = anyio.Event()

    def __iter__(self) -> Iterator[Registration]:
        return iter(list(self._open))

    def __contains__(self, registration: Registration) -> bool:
        return registration in self._open

    def begin(self, event_name: str) -> Registration:
        """Notes that the engine is asked now."""
        registration = Registration(event_name)
        self._open[registration] = None
        return registration

    async def none_is_void(self) -> None:
        """Waits until those are gone to which an answer would be of no use.

        Before that the engine may have one of them carry what it is asked for next.
        """
        while any(registration.is_void for registration in self._open):
            # Made here, and not where it is set: that may be on asyncio's side.
            if self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()

    def of(self, stream: Stream) -> Registration | None:
        """The one that gave this stream, if it is open."""
        return next((each for each in self._open if each.stream is stream), None)

    def drop(self, registration: Registration) -> None:
        """Forgets one, and closes its stream if there is one."""
        self._open.pop(registration, None)
        self._changed.set()
        if self._seen_carrying is registration:
            self._seen_carrying = None
        if registration.stream is not None:
            registration.stream.close()

    def drop_all(self) -> None:
        """The one that carried all has ended, and nothing comes on the others any more."""
        for registration in self:
            if registration.stream is None:
                registration.asking.cancel()
            else:
                self.drop(registration)

    def leave(self, registration: Registration, *, others: bool) -> None:
        """Its subscription has gone: drops it, unless it may carry the events of others."""
        if others and self.multiplexing is not False and registration is self.carrier:
            registration.is_left = True
        else:
            self.drop(registration)
        if not others:
            self.drop_left()

    def drop_left(self) -> None:
        """Nothing comes on them that anybody waits for."""
        for registration in self:
            if registration.is_left:
                self.drop(registration)

    @property
    def carrier(self) -> Registration | None:
        """The one that carries the events of all, should the engine multiplex."""
        return self._seen_carrying or next(iter(self._open), None)

    def carries_all(self, registration: Registration) -> bool:
        """Whether the events of all are known to come on this one's stream."""
        return bool(self.multiplexing) and registration is self.carrier

    def may_go_on(self, registration: Registration, ended: StreamEnded) -> bool:
        """Whether a stream may have been there to register only, and its end is no end of that.

        While it is not known whether the engine multiplexes, only one that it has finished
        at once is taken for such.
        """
        if ended.reason is not StreamEnd.FINISHED or registration is self.carrier:
            return False
        return self.multiplexing or (self.multiplexing is None and registration.ended is ended)

    def may_share_stream(self, event_name: str) -> bool:
        """Whether this name's events may come on one stream with those of others."""
        if self.multiplexing is not None:
            return self.multiplexing
        carrier = self.carrier
        # By name: one that was left may carry the events of its successor.
        return carrier is not None and carrier.event_name == event_name and len(self._open) > 1

    def saw_delivery(self, registration: Registration, event_name: str) -> None:
        """Learns from where an event came."""
        if event_name != registration.event_name:
            self.multiplexing = True
            self._seen_carrying = registration
        elif self.multiplexing is None and registration is not self.carrier:
            self.multiplexing = False
            self.drop_left()
