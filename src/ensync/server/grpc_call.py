"""One gRPC call: a request to read, and an answer to write."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import anyio
import betterproto2
from grpclib.const import Status
from grpclib.metadata import encode_grpc_message
from grpclib.protocol import Stream
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from ensync.server.grpc_limits import GrpcLimits
from ensync.server.hooks import DoorConnection
from ensync.transports.message_codec import encoder, strict_decoder

__all__ = ["CallFailed", "GrpcCall"]

M = TypeVar("M", bound=betterproto2.Message)

logger = logging.getLogger("ensync")

_PREFIX_SIZE = 5  # a compression flag and the length of the message
_RESPONSE_HEADERS = [(":status", "200"), ("content-type", "application/grpc+proto")]


class CallFailed(Exception):
    """A call ends with a gRPC status other than OK."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class GrpcCall:
    """One call: a request to read, and an answer to write.

    Args:
        connection: What it came on.
        stream: Its HTTP/2 stream.
        headers: The headers of the request.
        limits: What is put up with.
        large_messages: Held while a large message is read, of which only so many are
            read at once.

    Attributes:
        has_begun: Whether the response's headers were sent.
    """

    def __init__(
        self,
        connection: DoorConnection,
        stream: Stream,
        headers: dict[str, str],
        limits: GrpcLimits,
        large_messages: anyio.Semaphore,
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.has_begun = False
        self._limits = limits
        self._large_messages = large_messages
        self._headers = headers
        self._scope: anyio.CancelScope | None = None
        self._client_has_left = False
        self._must_finish = False

    @property
    def path(self) -> str:
        return self._headers.get(":path", "")

    async def while_client_waits(self, function: Callable[[], Awaitable[object]]) -> None:
        """Calls a function, and cancels it when the client gives the call up."""
        with anyio.CancelScope() as self._scope:
            if self._client_has_left:
                self._scope.cancel()
            try:
                await function()
            except ProtocolError as error:
                # The stream was reset between two frames of ours.
                logger.debug("a call ended early: %s", error)

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self._client_has_left

    def client_left(self) -> None:
        """The client reset the stream, or its connection is gone."""
        self._client_has_left = True
        if self._scope is not None and not self._must_finish:
            self._scope.cancel()

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """What is done in this block is finished, also when the client leaves meanwhile."""
        self._must_finish = True
        try:
            yield
        finally:
            self._must_finish = False
            if self._scope is not None and self._client_has_left:
                self._scope.cancel()

    def check_is_grpc(self) -> None:
        """Refuses what is HTTP/2 and not gRPC.

        Raises:
            CallFailed: It is not a call in the protobuf encoding.
        """
        content_type = self._headers.get("content-type", "")
        if content_type not in ("application/grpc", "application/grpc+proto"):
            raise CallFailed(
                Status.INVALID_ARGUMENT, "content-type must be application/grpc or ...+proto"
            )
        if self._headers.get("grpc-encoding", "identity") != "identity":
            raise CallFailed(Status.UNIMPLEMENTED, "compressed messages are not accepted")

    async def read_request(self, request_type: type[M]) -> M:
        """Reads the one message of the request.

        Raises:
            CallFailed: It is too large, malformed, missing or too slow.
        """
        try:
            with anyio.fail_after(self._limits.read_timeout):
                data = await self._read_message()
        except TimeoutError:
            raise CallFailed(Status.DEADLINE_EXCEEDED, "the request took too long") from None
        try:
            return cast(M, strict_decoder(request_type)(data))
        except ValueError as error:
            raise CallFailed(Status.INVALID_ARGUMENT, _what_is_wrong(data, request_type)) from error

    async def _read_message(self) -> bytes:
        prefix = await self._read(_PREFIX_SIZE)
        if prefix[0]:
            raise CallFailed(Status.UNIMPLEMENTED, "compressed messages are not accepted")
        size = int.from_bytes(prefix[1:], "big")
        if size > self._limits.message_bytes:
            raise CallFailed(
                Status.RESOURCE_EXHAUSTED,
                f"the message is too large: {size} bytes, "
                f"at most {self._limits.message_bytes} are accepted",
            )
        if size < self._limits.large_message_bytes:
            return await self._read(size)
        async with self._large_messages:
            return await self._read(size)

    async def _read(self, size: int) -> bytes:
        try:
            data = await self.stream.recv_data(size)
        except AssertionError as error:  # how grpclib says that there is less
            raise CallFailed(Status.INVALID_ARGUMENT, "the request ended too early") from error
        if len(data) != size:
            raise CallFailed(Status.INVALID_ARGUMENT, "the request holds no message")
        return data

    async def begin(self) -> None:
        """Sends the response's headers, if that is still to be done."""
        if not self.has_begun:
            self.has_begun = True
            await self.stream.send_headers(_RESPONSE_HEADERS)

    async def send(self, message: betterproto2.Message) -> None:
        """Sends one message of the response. Waits while the client holds us back."""
        await self.begin()
        data = encoder(type(message))(message)
        await self.stream.send_data(b"\0" + len(data).to_bytes(4, "big") + data)

    async def finish(self, status: Status = Status.OK, text: str = "") -> None:
        """Ends the call."""
        trailers = [] if self.has_begun else list(_RESPONSE_HEADERS)
        self.has_begun = True
        trailers.append(("grpc-status", str(status.value)))
        if text:
            trailers.append(("grpc-message", encode_grpc_message(text)))
        await self.stream.send_headers(trailers, end_stream=True)
        if self.stream.closable:
            # The client has not ended its side, and nobody will read it.
            self.stream.reset_nowait()

    def reset(self) -> None:
        """Ends the call without a word."""
        if self.stream.closable:
            self.stream.reset_nowait(ErrorCodes.INTERNAL_ERROR)


def _what_is_wrong(data: bytes, request_type: type[betterproto2.Message]) -> str:
    try:
        unknown = request_type.parse(data)._unknown_fields  # pyright: ignore[reportPrivateUsage]
    except Exception:  # noqa: BLE001 - whatever it dislikes about bytes of a client's
        unknown = b""
    if unknown:
        return f"the request has fields that {request_type.__name__} does not have"
    return "the request can't be parsed"
