"""One subscription over gRPC: a Subscribe call, read by a task of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from ensync.errors import EnSyncSubscriptionError
from ensync.proto.ensync import EventStreamResponse, SubscribeRequest
from ensync.transports.base import (
    DeliveryCallback,
    EndCallback,
    Heartbeat,
    Stream,
    StreamEnd,
    StreamEnded,
)
from ensync.transports.grpc_connection import GrpcConnection
from ensync.transports.grpc_messages import SUBSCRIBE, to_delivery
from ensync.transports.grpc_status import LASTING_REFUSALS, status_text

if TYPE_CHECKING:
    from ensync.transports.grpc import GrpcLink

__all__ = ["GrpcStream"]

# How long a silent engine may take to refuse a subscription. Engines that send
# their headers with the first event only are asked for a heartbeat meanwhile.
_HEADERS_GRACE = 0.25


class GrpcStream(Stream):
    """One Subscribe call, read by a task of its own."""

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
        self._closed = False
        self._held = False
        self._resumed: anyio.Event | None = None
        self._task = connection.start_stream(self._pump, name=f"ensync stream {event_name}")

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
        if self._ended.reason is StreamEnd.REFUSED:
            raise self._ended.error
        self._on_end(self._ended)

    async def _wait_for_heartbeat(self) -> None:
        # The engine answers in the order of arrival, or nearly so: it has seen the
        # subscription when it answers this.
        call = self._link.send(Heartbeat(), lambda _: self._settled.set())
        try:
            await self._settled.wait()
        finally:
            call.cancel()

    def hold(self) -> bool:
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        if self._resumed is not None:
            self._resumed.set()

    def close(self) -> None:
        self._closed = True
        self._link.stream_ended(self)
        self._settled.set()
        self._task.cancel()

    async def _pump(self) -> None:
        ended = await self._read_to_the_end()
        self._link.stream_ended(self)
        self._ended = ended
        self._settled.set()
        if self._is_registered and not self._closed and not self._connection.lost:
            self._on_end(ended)

    async def _read_to_the_end(self) -> StreamEnded:
        try:
            await self._read()
        except GRPCError as error:
            return _stream_ended(error, self._event_name)
        except Exception as error:  # noqa: BLE001 - the boundary to grpclib and h2
            return StreamEnded(StreamEnd.BROKEN, self._connection.translate(error))
        return StreamEnded(
            StreamEnd.FINISHED,
            EnSyncSubscriptionError(
                f"the engine ended the stream of {self._event_name!r}",
                code="stream_finished",
                event_name=self._event_name,
                retryable=True,
            ),
        )

    async def _read(self) -> None:
        request = SubscribeRequest(client_id=self._link.client_id, event_name=self._event_name)
        async with self._connection.request(
            SUBSCRIBE, Cardinality.UNARY_STREAM, SubscribeRequest, EventStreamResponse
        ) as stream:
            await stream.send_message(request, end=True)
            await stream.recv_initial_metadata()
            self._settled.set()
            await self._read_messages(stream.recv_message)

    async def _read_messages(self, receive: Callable[[], Any]) -> None:
        while True:
            while self._held:
                self._resumed = anyio.Event()
                await self._resumed.wait()
            message = await receive()
            if message is None:
                return
            self._on_delivery(to_delivery(message))


def _stream_ended(error: GRPCError, event_name: str) -> StreamEnded:
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
