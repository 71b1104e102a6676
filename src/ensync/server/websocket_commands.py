"""What each command asks of the broker, and how its good reply is worded (PROTOCOL 4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ensync.server.broker import Broker, Publication
from ensync.server.store import StoredEvent
from ensync.server.websocket_request import ParsedRequest
from ensync.transports.base import Delivery
from ensync.websocket_text import Command, FrameKind, encode_due, encode_record

__all__ = ["SELF_CONTAINED", "execute", "record_of"]

SELF_CONTAINED = frozenset(
    {
        Command.PUBLISH,
        Command.ACKNOWLEDGE,
        Command.ROLLBACK,
        Command.DEFER,
        Command.DISCARD,
    }
)
"""Commands that concern one event, whose outcome no other request waits for."""


async def execute(broker: Broker, request: ParsedRequest) -> str:
    """Does what a request asks for, and returns the reply.

    Not for CONN and SUB, which need a connection.

    Raises:
        Refusal: The broker says no.
        WebSocketTextError: A value is not what it must be.
    """
    return await _HANDLERS[request.command](broker, request)


def record_of(stored: StoredEvent) -> str:
    """The JSON record of a stored event."""
    event = stored.event
    return encode_record(
        Delivery(
            idem=stored.idem,
            event_name=event.queue.event_name,
            payload=event.payload,
            block=stored.block,
            metadata=event.metadata,
            sender=event.sender,
            logged_at_ms=stored.logged_at_ms,
        )
    )


async def _publish(broker: Broker, request: ParsedRequest) -> str:
    publication = Publication(
        event_name=request.text("EVENT_NAME"),
        payload=request.text("PAYLOAD"),
        delivery_to=request.text("DELIVERY_TO"),
        metadata=request.text("METADATA"),
        payload_metadata=request.fields.get("PAYLOAD_METADATA"),
    )
    stored = await broker.publish(_client_id(request), publication)
    return FrameKind.PASS.frame(stored.idem)


async def _unsubscribe(broker: Broker, request: ParsedRequest) -> str:
    await broker.unsubscribe(_client_id(request), request.text("EVENT_NAME"))
    return FrameKind.PASS.frame("unsubscribed")


async def _acknowledge(broker: Broker, request: ParsedRequest) -> str:
    idem, event_name = request.text("EVENT_IDEM"), request.text("EVENT_NAME")
    await broker.ack(_client_id(request), idem, request.integer("BLOCK"), event_name)
    return FrameKind.PASS.frame("acknowledged")


async def _rollback(broker: Broker, request: ParsedRequest) -> str:
    idem = request.text("EVENT_IDEM")
    await broker.rollback(_client_id(request), idem, request.integer("BLOCK"))
    return FrameKind.PASS.frame("rolled back")


async def _defer(broker: Broker, request: ParsedRequest) -> str:
    due_ms = await broker.defer(
        _client_id(request),
        request.text("EVENT_IDEM"),
        request.integer("DELAY"),
        request.text("REASON"),
        request.text("EVENT_NAME"),
    )
    return FrameKind.PASS.frame(encode_due(due_ms))


async def _discard(broker: Broker, request: ParsedRequest) -> str:
    idem, event_name = request.text("EVENT_IDEM"), request.text("EVENT_NAME")
    await broker.discard(_client_id(request), idem, request.text("REASON"), event_name)
    return FrameKind.PASS.frame("discarded")


async def _replay(broker: Broker, request: ParsedRequest) -> str:
    idem, event_name = request.text("EVENT_IDEM"), request.text("EVENT_NAME")
    stored = await broker.replay(_client_id(request), idem, event_name)
    return FrameKind.REPLAY.frame(record_of(stored))


async def _pause(broker: Broker, request: ParsedRequest) -> str:
    broker.pause(_client_id(request), request.text("EVENT_NAME"), request.text("REASON"))
    return FrameKind.PASS.frame("paused")


async def _continue(broker: Broker, request: ParsedRequest) -> str:
    broker.resume(_client_id(request), request.text("EVENT_NAME"))
    return FrameKind.PASS.frame("continued")


def _client_id(request: ParsedRequest) -> str:
    return request.text("CLIENT_ID")


_HANDLERS: Mapping[Command, Callable[[Broker, ParsedRequest], Awaitable[str]]] = {
    Command.PUBLISH: _publish,
    Command.UNSUBSCRIBE: _unsubscribe,
    Command.ACKNOWLEDGE: _acknowledge,
    Command.ROLLBACK: _rollback,
    Command.DEFER: _defer,
    Command.DISCARD: _discard,
    Command.REPLAY: _replay,
    Command.PAUSE: _pause,
    Command.CONTINUE: _continue,
}
