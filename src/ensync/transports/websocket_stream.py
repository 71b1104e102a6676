"""One subscription over WebSocket."""

from __future__ import annotations

from ensync.transports.base import DeliveryCallback, Stream

__all__ = ["WebSocketStream"]


class WebSocketStream(Stream):
    """An interest. All of a client's events come through its one socket."""

    def __init__(
        self, streams: dict[str, WebSocketStream], event_name: str, on_delivery: DeliveryCallback
    ) -> None:
        self._streams = streams
        self._event_name = event_name
        self.on_delivery = on_delivery
        streams[event_name] = self

    def hold(self) -> bool:
        return False

    def release(self) -> None:
        """It was never held."""

    def close(self) -> None:
        if self._streams.get(self._event_name) is self:
            del self._streams[self._event_name]
