"""Requests of the port as gRPC methods and messages, and replies back (PROTOCOL 3)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import betterproto2

from ensync.proto.ensync import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    ContinueRequest,
    ContinueResponse,
    DeferRequest,
    DeferResponse,
    DiscardRequest,
    DiscardResponse,
    EventStreamResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PauseRequest,
    PauseResponse,
    PublishEventRequest,
    PublishEventResponse,
    ReplayRequest,
    ReplayResponse,
    UnsubscribeRequest,
    UnsubscribeResponse,
)
from ensync.transports.base import (
    Acknowledge,
    Continue,
    Defer,
    Delivery,
    Discard,
    Heartbeat,
    Outcome,
    Pause,
    Publish,
    Replay,
    Request,
    Unsubscribe,
)
from ensync.transports.records import parse_replay_data

__all__ = ["CONNECT", "METHODS", "SUBSCRIBE", "Generation", "Method", "to_delivery"]

_SERVICE = "/ensync.EnSyncService/"
CONNECT = _SERVICE + "Connect"
SUBSCRIBE = _SERVICE + "Subscribe"


class Generation(enum.Enum):
    """Which of the two sets of method names an engine offers."""

    EVENT = "event"
    MESSAGE = "message"


Encoder = Callable[[str, Any], betterproto2.Message]
Decoder = Callable[[Any, Any], Outcome]


@dataclass(frozen=True, slots=True)
class Method:
    """How one kind of request travels."""

    event_path: str
    message_path: str
    reply_type: type[betterproto2.Message]
    encode: Encoder
    decode: Decoder

    def path(self, generation: Generation) -> str:
        return self.event_path if generation is Generation.EVENT else self.message_path

    @property
    def same_in_both(self) -> bool:
        return self.event_path == self.message_path


def _method(
    event: str,
    message: str,
    reply_type: type[betterproto2.Message],
    encode: Encoder,
    decode: Decoder,
) -> Method:
    return Method(_SERVICE + event, _SERVICE + message, reply_type, encode, decode)


def _publish(client_id: str, request: Publish) -> PublishEventRequest:
    return PublishEventRequest(
        client_id=client_id,
        event_name=request.event_name,
        payload=request.payload,
        delivery_to=request.recipient,
        metadata=request.metadata,
        payload_metadata=request.payload_metadata,
    )


def _published(reply: PublishEventResponse, _request: Publish) -> Outcome:
    return Outcome(reply.success, reply.error_message, idem=reply.event_idem)


def _acknowledge(client_id: str, request: Acknowledge) -> AcknowledgeRequest:
    return AcknowledgeRequest(
        client_id=client_id,
        event_idem=request.idem,
        event_name=request.event_name,
        partition_block=request.block,
    )


def _defer(client_id: str, request: Defer) -> DeferRequest:
    return DeferRequest(
        client_id=client_id,
        event_idem=request.idem,
        event_name=request.event_name,
        delay_ms=request.delay_ms,
        reason=request.reason,
    )


def _deferred(reply: DeferResponse, _request: Defer) -> Outcome:
    return Outcome(reply.success, reply.message, due_ms=reply.delivery_time or None)


def _discard(client_id: str, request: Discard) -> DiscardRequest:
    return DiscardRequest(
        client_id=client_id,
        event_idem=request.idem,
        event_name=request.event_name,
        reason=request.reason,
    )


def _replay(client_id: str, request: Replay) -> ReplayRequest:
    return ReplayRequest(
        client_id=client_id, event_idem=request.idem, event_name=request.event_name
    )


def _replayed(reply: ReplayResponse, request: Replay) -> Outcome:
    if not reply.success:
        return Outcome(False, reply.message)
    delivery = parse_replay_data(reply.event_data, event_name=request.event_name, idem=request.idem)
    return Outcome(True, reply.message, delivery=delivery)


def _pause(client_id: str, request: Pause) -> PauseRequest:
    return PauseRequest(client_id=client_id, event_name=request.event_name, reason=request.reason)


def _continue(client_id: str, request: Continue) -> ContinueRequest:
    return ContinueRequest(client_id=client_id, event_name=request.event_name)


def _unsubscribe(client_id: str, request: Unsubscribe) -> UnsubscribeRequest:
    return UnsubscribeRequest(client_id=client_id, event_name=request.event_name)


def _heartbeat(client_id: str, _request: Heartbeat) -> HeartbeatRequest:
    return HeartbeatRequest(client_id=client_id)


def _beaten(reply: HeartbeatResponse, _request: Heartbeat) -> Outcome:
    if reply.success:
        return Outcome(True)
    return Outcome(False, "the engine does not know this client any more", unauthenticated=True)


def _plain(reply: Any, _request: Request) -> Outcome:
    return Outcome(reply.success, reply.message)


METHODS: dict[type[Request], Method] = {
    Publish: _method("PublishEvent", "PublishMessage", PublishEventResponse, _publish, _published),
    Acknowledge: _method(
        "AcknowledgeEvent", "AcknowledgeMessage", AcknowledgeResponse, _acknowledge, _plain
    ),
    Defer: _method("DeferEvent", "DeferMessage", DeferResponse, _defer, _deferred),
    Discard: _method("DiscardEvent", "DiscardMessage", DiscardResponse, _discard, _plain),
    Replay: _method("ReplayEvent", "ReplayMessage", ReplayResponse, _replay, _replayed),
    Pause: _method("PauseEvents", "PauseMessages", PauseResponse, _pause, _plain),
    Continue: _method("ContinueEvents", "ContinueMessages", ContinueResponse, _continue, _plain),
    Unsubscribe: _method("Unsubscribe", "Unsubscribe", UnsubscribeResponse, _unsubscribe, _plain),
    Heartbeat: _method("Heartbeat", "Heartbeat", HeartbeatResponse, _heartbeat, _beaten),
}


def to_delivery(message: EventStreamResponse) -> Delivery:
    """Reads one event of a stream."""
    return Delivery(
        message.event_idem,
        message.event_name,
        message.payload,
        message.partition_block,
        message.metadata,
        message.sender,
    )
