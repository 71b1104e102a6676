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
from ensync.transports.grpc_codings import (
    ACCEPT_ENCODING,
    ACCEPTED,
    CODINGS,
    ENCODING,
    BadCompression,
    TooLarge,
    codings_in,
    decompress,
)
from ensync.transports.grpc_framing import COMPRESSED, PREFIX, framing_in
from ensync.transports.message_codec import encoder, strict_decoder

__all__ = ["CallFailed", "GrpcCall"]

M = TypeVar("M", bound=betterproto2.Message)

logger = logging.getLogger("ensync")

_RESPONSE_HEADERS = [(":status", "200"), ("content-type", "application/grpc+proto")]
# For those who say what they take themselves: to others it would be bytes for nothing.
_TELLING_HEADERS = [*_RESPONSE_HEADERS, (ACCEPT_ENCODING, ACCEPTED)]
_CODED_HEADERS = {coding: [*_TELLING_HEADERS, (ENCODING, coding)] for coding in CODINGS}
_NO_CODING = "identity"


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
        self._coding = headers.get(ENCODING, _NO_CODING)
        self._response_headers, answer_coding = _RESPONSE_HEADERS, ""
        if ENCODING in headers or ACCEPT_ENCODING in headers:
            answer_coding = _answer_coding(headers)
            self._response_headers = _CODED_HEADERS.get(answer_coding, _TELLING_HEADERS)
        self._framed = framing_in(answer_coding)
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
            CallFailed: It is not a call in the protobuf encoding, or is in an unknown coding.
        """
        content_type = self._headers.get("content-type", "")
        if content_type not in ("application/grpc", "application/grpc+proto"):
            raise CallFailed(
                Status.INVALID_ARGUMENT, "content-type must be application/grpc or ...+proto"
            )
        if self._coding not in (*CODINGS, _NO_CODING):
            raise CallFailed(
                Status.UNIMPLEMENTED, f"this grpc-encoding is not accepted: {ACCEPTED} are"
            )

    async def read_request(self, request_type: type[M]) -> M:
        """Reads the one message of the request.

        Raises:
            CallFailed: It is too large, malformed, missing, too slow, or can't be decompressed.
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
        limits = self._limits
        prefix = await self._read(PREFIX)
        self._check_flag(prefix[0])
        size = int.from_bytes(prefix[1:], "big")
        if size > limits.message_bytes:
            raise self._too_large(f"{size} bytes")
        if size >= limits.large_message_bytes:
            async with self._large_messages:
                data = await self._read(size)
                return self._decompressed(data, limits.message_bytes) if prefix[0] else data
        data = await self._read(size)
        return await self._maybe_large(data) if prefix[0] else data

    def _check_flag(self, flag: int) -> None:
        if flag > COMPRESSED:
            raise CallFailed(
                Status.INVALID_ARGUMENT, f"the flag of the message is {flag}, not 0 or 1"
            )
        if flag and self._coding == _NO_CODING:
            # Not the client's mistake, as gRPC has it, but one of the library below it.
            raise CallFailed(
                Status.INTERNAL, "the message is said to be compressed, and no grpc-encoding how"
            )

    async def _maybe_large(self, data: bytes) -> bytes:
        """Decompresses what was small until then, and waits where it becomes large."""
        limits = self._limits
        try:
            return self._decompressed(data, min(limits.large_message_bytes, limits.message_bytes))
        except TooLarge:
            # What has come out so far is dropped: whoever waits holds nothing large.
            pass
        async with self._large_messages:
            return self._decompressed(data, limits.message_bytes)

    def _decompressed(self, data: bytes, most: int) -> bytes:
        try:
            return decompress(data, self._coding, most)
        except TooLarge as error:
            if most < self._limits.message_bytes:
                raise
            raise self._too_large(f"more than {most} bytes when decompressed") from error
        except BadCompression as error:
            raise CallFailed(
                Status.INVALID_ARGUMENT, f"the compressed message can't be read: {error}"
            ) from error

    def _too_large(self, what: str) -> CallFailed:
        return CallFailed(
            Status.RESOURCE_EXHAUSTED,
            f"the message is too large: {what}, at most {self._limits.message_bytes} are accepted",
        )

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
            await self.stream.send_headers(self._response_headers)

    async def send(self, message: betterproto2.Message) -> None:
        """Sends one message of the response. Waits while the client holds us back."""
        await self.begin()
        await self.stream.send_data(self._framed(encoder(type(message))(message)))

    async def finish(self, status: Status = Status.OK, text: str = "") -> None:
        """Ends the call."""
        trailers = [] if self.has_begun else list(self._response_headers)
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


def _answer_coding(headers: dict[str, str]) -> str:
    """What the answer is compressed by: in kind, so that who does not ask for it pays nothing."""
    coding = headers.get(ENCODING)
    if coding not in CODINGS:
        return ""
    return coding if coding in codings_in(headers.get(ACCEPT_ENCODING, coding)) else ""


def _what_is_wrong(data: bytes, request_type: type[betterproto2.Message]) -> str:
    try:
        unknown = request_type.parse(data)._unknown_fields  # pyright: ignore[reportPrivateUsage]
    except Exception:  # noqa: BLE001 - whatever it dislikes about bytes of a client's
        unknown = b""
    if unknown:
        return f"the request has fields that {request_type.__name__} does not have"
    return "the request can't be parsed"
