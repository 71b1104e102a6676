"""What each gRPC method asks of the broker, and how its answer is worded (PROTOCOL 3)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

import betterproto2

from ensync.proto.ensync import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    ConnectRequest,
    ConnectResponse,
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
from ensync.server.broker import Broker, Publication
from ensync.server.hooks import DoorConnection
from ensync.server.refusal import Refusal
from ensync.server.store import StoredEvent

__all__ = [
    "GENERATIONS",
    "SUBSCRIBE_PATH",
    "GrpcMethods",
    "UnaryMethod",
    "to_message",
    "unary_methods",
]

_SERVICE = "/ensync.EnSyncService/"
GENERATIONS = ("event", "message")
SUBSCRIBE_PATH = _SERVICE + "Subscribe"


class UnaryMethod(NamedTuple):
    """One method: what it is for, and how it is answered.

    ``refuse`` words a refusal in the method's own response.
    """

    purpose: str
    request_type: type[betterproto2.Message]
    handle: Callable[[GrpcMethods, DoorConnection, Any], Awaitable[betterproto2.Message]]
    refuse: Callable[[Refusal], betterproto2.Message]


def unary_methods(generations: Collection[str]) -> Mapping[str, UnaryMethod]:
    """The methods by path, of the generations asked for (of GENERATIONS)."""
    return {
        _SERVICE + name: method
        for generation in generations
        for name, method in _METHODS[generation].items()
    }


def to_message(stored: StoredEvent) -> EventStreamResponse:
    """An event as it goes out on a stream."""
    return EventStreamResponse(
        event_idem=stored.idem,
        event_name=stored.event.queue.event_name,
        payload=stored.event.payload,
        partition_block=stored.block,
        metadata=stored.event.metadata,
        sender=stored.event.sender,
    )


class GrpcMethods:
    """The unary methods, by what they are for. Each may raise Refusal."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def connect(self, connection: DoorConnection, request: ConnectRequest) -> ConnectResponse:
        client = self._broker.connect(request.access_key, connection)
        return ConnectResponse(success=True, client_id=client.client_id, client_hash=client.app_id)

    async def heartbeat(
        self, connection: DoorConnection, request: HeartbeatRequest
    ) -> HeartbeatResponse:
        self._broker.heartbeat(request.client_id)
        return HeartbeatResponse(success=True)

    async def publish(
        self, connection: DoorConnection, request: PublishEventRequest
    ) -> PublishEventResponse:
        publication = Publication(
            event_name=request.event_name,
            payload=request.payload,
            delivery_to=request.delivery_to,
            metadata=request.metadata,
            payload_metadata=request.payload_metadata,
        )
        stored = await self._broker.publish(request.client_id, publication)
        return PublishEventResponse(success=True, event_idem=stored.idem)

    async def unsubscribe(
        self, connection: DoorConnection, request: UnsubscribeRequest
    ) -> UnsubscribeResponse:
        await self._broker.unsubscribe(request.client_id, request.event_name)
        return UnsubscribeResponse(success=True, message="unsubscribed")

    async def acknowledge(
        self, connection: DoorConnection, request: AcknowledgeRequest
    ) -> AcknowledgeResponse:
        await self._broker.ack(
            request.client_id, request.event_idem, request.partition_block, request.event_name
        )
        return AcknowledgeResponse(success=True, message="done")

    async def defer(self, connection: DoorConnection, request: DeferRequest) -> DeferResponse:
        due_ms = await self._broker.defer(
            request.client_id,
            request.event_idem,
            request.delay_ms,
            request.reason,
            request.event_name,
        )
        return DeferResponse(success=True, message="deferred", delivery_time=due_ms)

    async def discard(self, connection: DoorConnection, request: DiscardRequest) -> DiscardResponse:
        await self._broker.discard(
            request.client_id, request.event_idem, request.reason, request.event_name
        )
        return DiscardResponse(success=True, message="discarded")

    async def replay_event(
        self, connection: DoorConnection, request: ReplayRequest
    ) -> ReplayResponse:
        stored = await self._broker.replay(
            request.client_id, request.event_idem, request.event_name
        )
        return ReplayResponse(success=True, message="replayed", event_data=stored.event.payload)

    async def replay_message(
        self, connection: DoorConnection, request: ReplayRequest
    ) -> ReplayResponse:
        stored = await self._broker.replay(
            request.client_id, request.event_idem, request.event_name
        )
        event_data = json.dumps(to_message(stored).to_dict(include_default_values=True))
        return ReplayResponse(success=True, message="replayed", event_data=event_data)

    async def pause(self, connection: DoorConnection, request: PauseRequest) -> PauseResponse:
        self._broker.pause(request.client_id, request.event_name, request.reason)
        return PauseResponse(success=True, message="paused")

    async def resume(
        self, connection: DoorConnection, request: ContinueRequest
    ) -> ContinueResponse:
        self._broker.resume(request.client_id, request.event_name)
        return ContinueResponse(success=True, message="continued")


def _refused_by(response_type: type[Any], field: str = "message") -> Callable[[Refusal], Any]:
    def refuse(refusal: Refusal) -> Any:
        return response_type(success=False, **{field: str(refusal)})

    return refuse


def _heartbeat_refused(_: Refusal) -> HeartbeatResponse:
    return HeartbeatResponse(success=False)  # there is no room for a text


_CONNECT_REFUSED = _refused_by(ConnectResponse, "error_message")
_PUBLISH_REFUSED = _refused_by(PublishEventResponse, "error_message")
_ACK_REFUSED = _refused_by(AcknowledgeResponse)
_REPLAY_REFUSED = _refused_by(ReplayResponse)

_CONNECT = UnaryMethod("connect", ConnectRequest, GrpcMethods.connect, _CONNECT_REFUSED)
_HEARTBEAT = UnaryMethod("heartbeat", HeartbeatRequest, GrpcMethods.heartbeat, _heartbeat_refused)
_PUBLISH = UnaryMethod("publish", PublishEventRequest, GrpcMethods.publish, _PUBLISH_REFUSED)
_UNSUBSCRIBE = UnaryMethod(
    "unsubscribe", UnsubscribeRequest, GrpcMethods.unsubscribe, _refused_by(UnsubscribeResponse)
)
_ACKNOWLEDGE = UnaryMethod("acknowledge", AcknowledgeRequest, GrpcMethods.acknowledge, _ACK_REFUSED)
_DEFER = UnaryMethod("defer", DeferRequest, GrpcMethods.defer, _refused_by(DeferResponse))
_DISCARD = UnaryMethod("discard", DiscardRequest, GrpcMethods.discard, _refused_by(DiscardResponse))
_REPLAY_EVENT = UnaryMethod("replay", ReplayRequest, GrpcMethods.replay_event, _REPLAY_REFUSED)
_REPLAY_MESSAGE = UnaryMethod("replay", ReplayRequest, GrpcMethods.replay_message, _REPLAY_REFUSED)
_PAUSE = UnaryMethod("pause", PauseRequest, GrpcMethods.pause, _refused_by(PauseResponse))
_CONTINUE = UnaryMethod(
    "continue", ContinueRequest, GrpcMethods.resume, _refused_by(ContinueResponse)
)

_IN_BOTH = {
    "Connect": _CONNECT,
    "Heartbeat": _HEARTBEAT,
    "Unsubscribe": _UNSUBSCRIBE,
}

_METHODS: dict[str, dict[str, UnaryMethod]] = {
    "event": {
        **_IN_BOTH,
        "PublishEvent": _PUBLISH,
        "AcknowledgeEvent": _ACKNOWLEDGE,
        "DeferEvent": _DEFER,
        "DiscardEvent": _DISCARD,
        "ReplayEvent": _REPLAY_EVENT,
        "PauseEvents": _PAUSE,
        "ContinueEvents": _CONTINUE,
    },
    "message": {
        **_IN_BOTH,
        "PublishMessage": _PUBLISH,
        "AcknowledgeMessage": _ACKNOWLEDGE,
        "DeferMessage": _DEFER,
        "DiscardMessage": _DISCARD,
        "ReplayMessage": _REPLAY_MESSAGE,
        "PauseMessages": _PAUSE,
        "ContinueMessages": _CONTINUE,
    },
}
