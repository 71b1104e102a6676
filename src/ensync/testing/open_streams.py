"""The streams of deliveries that can be told to end."""

from __future__ import annotations

import anyio

from ensync.server.hooks import DoorFault
from ensync.testing.watch import Watch

__all__ = ["OpenStreams"]


class OpenStreams:
    """The streams of deliveries that are open on an engine.

    Attributes:
        watch: Notified when a stream was opened or has ended.
    """

    def __init__(self) -> None:
        self.watch = Watch()
        self._streams: set[_OpenStream] = set()

    def __len__(self) -> int:
        return len(self._streams)

    def end(self, event_name: str | None, fault: DoorFault) -> int:
        """Ends those of one event name, or all. Returns how many there were."""
        ending = [stream for stream in self._streams if event_name in (None, stream.event_name)]
        for stream in ending:
            stream.fault = fault
            stream.ended.set()
        return len(ending)

    async def stay_open(self, event_name: str) -> None:
        """Counts a stream as open until this is cancelled, or raises how it is to end."""
        stream = _OpenStream(event_name)
        self._streams.add(stream)
        self.watch.notify()
        try:
            await stream.ended.wait()
        finally:
            self._streams.discard(stream)
            self.watch.notify()
        if stream.fault is not None:
            raise DoorFault(str(stream.fault), status=stream.fault.status, reset=stream.fault.reset)


class _OpenStream:
    def __init__(self, event_name: str) -> None:
        self.event_name = event_name
        self.fault: DoorFault | None = None
        self.ended = anyio.Event()
