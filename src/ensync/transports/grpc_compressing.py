"""Calls and streams whose messages are compressed, as far as the engine takes them so."""

from __future__ import annotations

from typing import Any

from h2.events import ResponseReceived

from ensync.address import Address
from ensync.transports.grpc_codings import ACCEPT_ENCODING, ACCEPTED, ENCODING, accepted_coding
from ensync.transports.grpc_direct import DirectWire
from ensync.transports.grpc_framing import COMPRESSED, framing_in
from ensync.transports.grpc_protocol import ClientProtocol
from ensync.transports.grpc_wire import WireOwner

__all__ = ["CompressingWire"]

_ANNOUNCEMENT = (ACCEPT_ENCODING, ACCEPTED)


class CompressingWire(DirectWire):
    """Takes compressed messages, and sends them once the engine has said that it takes them.

    A new connection knows nothing of the one before: another engine may answer. So its first
    request does not name a coding, and an engine that answers in kind does not compress the
    events of a subscription that was asked for by it.
    """

    last_flag = COMPRESSED

    def __init__(self, owner: WireOwner, protocol: ClientProtocol, address: Address) -> None:
        super().__init__(owner, protocol, address)
        self._coding = ""
        self._coding_headers = [_ANNOUNCEMENT]
        self._last_heard: object = None

    def _response_received(self, event: ResponseReceived) -> None:
        # h2 declares header objects of its own, and gives tuples of text all the same.
        headers: Any = event.headers
        # Remembered header blocks are the same objects each time.
        if headers is not self._last_heard:
            self._last_heard = headers
            self._use(accepted_coding(headers))
        super()._response_received(event)

    def _use(self, coding: str | None) -> None:
        # What was said last counts: behind one address there may be engines of several kinds.
        if coding is None or coding == self._coding:
            return
        self._coding = coding
        self._coding_headers = [_ANNOUNCEMENT, *([(ENCODING, coding)] if coding else [])]
        self._framed = framing_in(coding)
        self._headers.clear()
