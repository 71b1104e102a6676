"""One subscription over gRPC: a Subscribe call, its deliveries, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ensync.errors import EnSyncError, EnSyncSubscriptionError
from ensync.proto.ensync import EventStreamResponse, SubscribeRequest
from ensync.transports.base import (
    DeliveryCallback,
    EndCallback,
    Heartbeat,
    Outcome,
    Stream,
    StreamEnd,
    StreamEnded,
)
from ensync.transports.grpc_connection import GrpcConnection
from ensync.transports.grpc_messages import SUBSCRIBE, to_delivery
from ensync.transports.grpc_status import LASTING_REFUSALS, status_text
from ensync.transports.grpc_wire import StreamResult

if TYPE_CHECKING:
    from ensync.transports.grpc import GrpcLink

__all__ = ["GrpcStream"]

# How long a silent engine may take to refuse a subscription. Engines that send
# their headers with the first event only are asked for a heartbeat meanwhile.
_HEADERS_GRACE = 0.25


class GrpcStream(Stream):
    """One registration of an interest in an event name."""

    def __init__(
        self,
        link: GrpcLink,
        connection: GrpcConnection,
        event_name: str,
        on_delivery: DeliveryCallback,
        on_end: EndCallback,
    ) -> None:
        self._link = link
        self._connection = connection
        self._event_name = event_name
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._is_registered = False
        self._settled = anyio.Event()
        self._ended: StreamEnded | None = None
        self._server_stream = connection.stream(
            SUBSCRIBE,
            SubscribeRequest(client_id=link.client_id, event_name=event_name),
            EventStreamResponse,
            on_open=self._settled.set,
            on_message=self._message_arrived,
            on_end=self._stream_ended,
        )

    async def registered(self) -> None:
        """Waits until the engine has accepted, or can be taken to have accepted."""
        with anyio.move_on_after(_HEADERS_GRACE):
            await self._settled.wait()
        if not self._settled.is_set():
            await self._wait_for_heartbeat()
        self._is_registered = True
        if self._connection.error is not None:
            raise self._connection.error
        if self._ended is None:
            return
        if self._ended.reason in (StreamEnd.REFUSED, StreamEnd.BROKEN):
            raise self._ended.error
        self._on_end(self._ended)

    async def _wait_for_heartbeat(self) -> None:
        # The engine answers in the order of arrival, or nearly so: it has seen the
        # subscription when it answers this.
        answers: list[Outcome | EnSyncError] = []

        def on_reply(answer: Outcome | EnSyncError) -> None:
            answers.append(answer)
            self._settled.set()

        call = self._link.send(Heartbeat(), on_reply)
        try:
            await self._settled.wait()
        finally:
            call.cancel()
        for answer in answers:
            if isinstance(answer, EnSyncError):
                raise answer

    def hold(self) -> bool:
        self._server_stream.hold()
        return True

    def release(self) -> None:
        self._server_stream.release()

    def close(self) -> None:
        self._link.stream_ended(self)
        self._server_stream.cancel()
        self._settled.set()

    def _message_arrived(self, message: EventStreamResponse) -> None:
        self._on_delivery(to_delivery(message))

    def _stream_ended(self, result: StreamResult) -> None:
        self._link.stream_ended(self)
        self._ended = _describe_end(result, self._event_name)
        self._settled.set()
        if self._is_registered and not self._connection.lost:
            self._on_end(self._ended)


def _describe_end(result: StreamResult, event_name: str) -> StreamEnded:
    if isinstance(result, GRPCError):
        return _ended_by_status(result, event_name)
    if result is not None:
        return StreamEnded(StreamEnd.BROKEN, result)
    return StreamEnded(
        StreamEnd.FINISHED,
        EnSyncSubscriptionError(
            f"the engine ended the stream of {event_name!r}",
            code="stream_finished",
            event_name=event_name,
            retryable=True,
        ),
    )


def _ended_by_status(error: GRPCError, event_name: str) -> StreamEnded:
    failure = EnSyncSubscriptionError(
        f"the engine ended the stream of {event_name!r}: {status_text(error)}",
        code="stream_ended",
        event_name=event_name,
        retryable=error.status not in LASTING_REFUSALS,
    )
    failure.__cause__ = error
    if error.status is Status.UNAUTHENTICATED:
        return StreamEnded(StreamEnd.UNAUTHENTICATED, failure)
    if error.status in LASTING_REFUSALS:
        return StreamEnded(StreamEnd.REFUSED, failure)
    return StreamEnded(StreamEnd.BROKEN, failure)
