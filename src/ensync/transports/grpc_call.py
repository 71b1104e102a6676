"""One request of the port over gRPC, in the method names of the engine's generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import betterproto2
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ensync.errors import EnSyncConnectionError, EnSyncError
from ensync.transports.base import (
    Call,
    Heartbeat,
    Outcome,
    ReplyCallback,
    Request,
)
from ensync.transports.grpc_messages import METHODS, Generation, Method
from ensync.transports.grpc_status import REFUSALS, status_text
from ensync.transports.grpc_wire import UnaryCall, UnaryResult

if TYPE_CHECKING:
    from ensync.transports.grpc import GrpcLink
    from ensync.transports.grpc_connection import GrpcConnection

__all__ = ["GrpcCall"]


class GrpcCall(Call):
    """A request of the port, in the names of the engine's generation."""

    def __init__(
        self,
        link: GrpcLink,
        connection: GrpcConnection,
        request: Request,
        on_reply: ReplyCallback,
    ) -> None:
        self._link = link
        self.connection = connection
        self.request = request
        self._on_reply: ReplyCallback | None = on_reply
        self._method: Method = METHODS[type(request)]
        self._generation = link.transport.generation or Generation.MESSAGE
        self._unary: UnaryCall | None = None
        self.sent = False

    def start(self) -> None:
        self.sent = False
        message = self._method.encode(self._link.client_id, self.request)
        path = self._method.path(self._generation)
        self._unary = self.connection.call(
            path,
            message,
            self._method.reply_type,
            self._resulted,
            self._was_sent,
            urgent=isinstance(self.request, Heartbeat),
        )

    def _was_sent(self, sent: bool) -> None:
        self.sent = sent

    def cancel(self) -> None:
        self._on_reply = None
        self._link.call_ended(self)
        if self._unary is not None:
            self._unary.cancel()

    def answer(self, result: Outcome | EnSyncError) -> None:
        on_reply, self._on_reply = self._on_reply, None
        self._link.call_ended(self)
        if on_reply is not None:
            on_reply(result)

    def _resulted(self, result: UnaryResult) -> None:
        if self._on_reply is None:
            return
        if isinstance(result, EnSyncConnectionError):
            self.answer(result)
        elif isinstance(result, GRPCError):
            self._refused(result)
        else:
            self._answered(result)

    def _answered(self, reply: betterproto2.Message) -> None:
        transport, generation = self._link.transport, self._generation
        if transport.generation is not generation and not self._method.same_in_both:
            transport.generation = generation
        try:
            outcome = self._method.decode(reply, self.request)
        except EnSyncError as error:
            self.answer(error)
        else:
            self.answer(outcome)

    def _refused(self, error: GRPCError) -> None:
        if error.status is Status.UNIMPLEMENTED and self._other_generation_may_do():
            self._generation = Generation.EVENT
            self.start()
        elif error.status is Status.UNAUTHENTICATED:
            self.answer(Outcome(False, status_text(error), unauthenticated=True))
        elif error.status in REFUSALS:
            self.answer(Outcome(False, status_text(error)))
        else:
            self.answer(_passing_failure(error))

    def _other_generation_may_do(self) -> bool:
        return (
            self._generation is Generation.MESSAGE
            and not self._method.same_in_both
            and self._link.transport.generation is None
        )


def _passing_failure(error: GRPCError) -> EnSyncConnectionError:
    failure = EnSyncConnectionError(
        f"the engine failed on a request: {status_text(error)}", code="request_failed"
    )
    failure.__cause__ = error
    return failure
