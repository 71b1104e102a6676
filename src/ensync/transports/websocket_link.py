"""One client's socket (PROTOCOL 4).

Requests are written in order, and answered in the same order; events
may come between. Replies carry no id, so whatever could shift them, such as a
request that nobody waits for any more, ends the link.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import anyio
from websockets.exceptions import ConnectionClosed

from ensync import websocket_socket
from ensync.address import Address
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncError,
    EnSyncSubscriptionError,
)
from ensync.transports.base import (
    Call,
    Carrier,
    Delivery,
    DeliveryCallback,
    EndCallback,
    Heartbeat,
    Identity,
    Link,
    LostCallback,
    Outcome,
    ReplyCallback,
    Request,
    Stream,
    Unsubscribe,
)
from ensync.transports.bridge import AsyncioSide
from ensync.transports.ping_call import PingCall
from ensync.transports.records import parse_record
from ensync.transports.websocket_calls import PendingCall, UnsentCall
from ensync.transports.websocket_carrier import WebSocketCarrier
from ensync.transports.websocket_direct import DirectConnection, Message
from ensync.transports.websocket_requests import RequestPipeline
from ensync.transports.websocket_stream import WebSocketStream
from ensync.websocket_text import (
    FrameKind,
    ServerFrame,
    WebSocketTextError,
    encode_connect,
    encode_request,
    encode_subscribe,
    parse_frame,
    parse_identity,
    read_outcome,
)

__all__ = ["CLOSE_TIMEOUT", "WebSocketLink"]

logger = logging.getLogger("ensync")

T = TypeVar("T")

CLOSE_TIMEOUT = 1.0
"""Seconds that the closing handshake may take."""

# A reply that comes twice is caught where it would pass for a publish's, if the two are no
# further apart.
_REMEMBERED_REPLIES = 128
# For acknowledgements, of which a session has a bound of its own.
_ROOM = 1_000


class WebSocketLink(Link):
    """A socket, and what is asked and told through it. To be made on the asyncio side."""

    def __init__(
        self, socket: DirectConnection, address: Address, side: AsyncioSide, on_lost: LostCallback
    ) -> None:
        self._socket = socket
        self._carrier = WebSocketCarrier(socket, self.abort)
        self._url = address.url
        self._side = side
        self._on_lost: LostCallback | None = on_lost
        self._error: EnSyncConnectionError | None = None
        self._client_id = ""
        self._streams: dict[str, WebSocketStream] = {}
        self._requests = RequestPipeline(socket, side.call_soon, self._failed)
        self._pings: dict[PingCall, object] = {}
        self._recent_replies: dict[str, None] = {}
        self._is_closing = False
        socket.attach(self._requests, self._received, self._closing)
        side.spawn(self._read_queued, name="ensync websocket reader")

    # Requests

    async def authenticate(self, app_key: str) -> Identity:
        identity = await self._ask(encode_connect(app_key), _read_identity)
        self._client_id = identity.client_id
        return identity

    def send(self, request: Request, on_reply: ReplyCallback) -> Call:
        if isinstance(request, Heartbeat):
            return self.beat(self._carrier, on_reply)
        try:
            text = encode_request(self._client_id, request)
        except EnSyncError as error:
            on_reply(error)
            return UnsentCall()
        return self._enqueue(text, partial(self._read_outcome, request), on_reply)

    async def subscribe(
        self, event_name: str, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> Stream:
        text = encode_subscribe(self._client_id, event_name)
        # Before the engine is asked: its first events may overtake its reply.
        stream = WebSocketStream(self._streams, event_name, on_delivery)
        try:
            await self._ask(text, partial(_read_registration, event_name))
        except EnSyncError:
            stream.close()
            raise
        except BaseException:
            stream.close()
            # Nobody waits any more, and the engine may have registered it all the same.
            self.send(Unsubscribe(event_name), _log_unsubscribed)
            raise
        return stream

    async def _ask(self, text: str, read: Callable[[ServerFrame], T]) -> T:
        answers: list[T | EnSyncError] = []
        answered = anyio.Event()

        def on_answer(answer: T | EnSyncError) -> None:
            answers.append(answer)
            answered.set()

        call = self._enqueue(text, read, on_answer)
        try:
            await answered.wait()
        finally:
            call.cancel()
        answer = answers[0]
        if isinstance(answer, EnSyncError):
            raise answer
        return answer

    def _enqueue(
        self,
        text: str,
        read: Callable[[ServerFrame], T],
        on_answer: Callable[[T | EnSyncError], None],
    ) -> PendingCall[T]:
        call = PendingCall(text, read, on_answer, self._reply_unwanted)
        if self._error is not None:
            call.answer(self._error)
        else:
            self._requests.add(call)
        return call

    def _read_outcome(self, request: Request, frame: ServerFrame) -> Outcome:
        outcome = read_outcome(request, frame)
        if outcome.idem and outcome.idem in self._recent_replies:
            raise WebSocketTextError("a reply to PUB that it has sent before")
        reply = outcome.idem or outcome.message
        if outcome.success and reply:
            self._remember(reply)
        return outcome

    def _remember(self, reply: str) -> None:
        self._recent_replies[reply] = None
        if len(self._recent_replies) > _REMEMBERED_REPLIES:
            del self._recent_replies[next(iter(self._recent_replies))]

    @property
    def room(self) -> int:
        # Replies come in order here: whatever is not answered holds all others up anyway.
        return _ROOM

    # Heartbeats

    @property
    def carriers(self) -> Sequence[Carrier]:
        return (self._carrier,)

    def beat(self, carrier: Carrier, on_reply: ReplyCallback) -> Call:
        call = PingCall(on_reply)
        if self._error is not None:
            call.answer(self._error)
            return call
        # A reply that got lost would shift all later ones, unnoticed for as long as requests
        # keep coming. So now and then none is sent until all are answered.
        self._requests.catch_up()
        self._pings[call] = self._side.spawn(self._ping, call, name="ensync websocket ping")
        return call

    async def _ping(self, call: PingCall) -> None:
        call.sent = True
        try:
            pong = await websocket_socket.ping(self._socket)
            await pong
        except ConnectionClosed as error:
            self._failed(error)
        else:
            call.answer(Outcome(True))
        finally:
            self._pings.pop(call, None)

    # Reading

    async def _read_queued(self) -> None:
        try:
            while True:
                self._received(await self._socket.queued_message())
        except Exception as error:  # noqa: BLE001 - it says whatever there is to say of it
            self._failed(error)

    def _received(self, message: Message) -> None:
        if self._error is not None:
            return
        try:
            self._take(message)
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(error)

    def _take(self, message: Message) -> None:
        if isinstance(message, bytes):
            raise WebSocketTextError("a binary message")
        frame = parse_frame(message)
        if frame.kind is FrameKind.RECORD:
            self._arrived(frame.text)
        elif frame.kind is FrameKind.PING:
            self._requests.answer_ping()
        else:
            self._requests.answer(frame)

    def _arrived(self, record: str) -> None:
        try:
            delivery = parse_record(record)
        except EnSyncError as error:
            # It can be neither shown nor settled, and is no reason to lose the others.
            logger.warning("%s sent what can't be taken: %s; it stays unsettled", self._url, error)
        else:
            self._deliver(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        stream = self._streams.get(delivery.event_name)
        if stream is None:
            # On its way already when the engine was told to stop: it is handed out again.
            logger.debug("an event without a subscription: %r", delivery.event_name)
        else:
            stream.on_delivery(delivery)

    # Ending

    def abort(self, error: EnSyncConnectionError) -> None:
        if self._error is None:
            # close() would wait for what is still to be written.
            websocket_socket.abort(self._socket)
            self._end(error)

    async def aclose(self) -> None:
        if self._error is not None:
            return
        self._on_lost = None
        self._end(EnSyncConnectionError("this client was closed", code="closed"))
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await websocket_socket.close(self._socket)
        finally:
            websocket_socket.abort(self._socket)

    def _reply_unwanted(self) -> None:
        self.abort(
            EnSyncConnectionError(
                f"the connection to {self._url} was reset: a request was given up whose reply is "
                "still to come, and replies can be told apart by their order only",
                code="link_reset",
            )
        )

    def _end(self, error: EnSyncConnectionError) -> None:
        self._error = error
        self._streams.clear()
        calls: list[PendingCall[Any] | PingCall] = [*self._requests.take_all(), *self._pings]
        for call in calls:
            try:
                call.answer(error)
            except Exception:
                # That must not keep the others, and who is told of the loss, from hearing of it.
                logger.exception("internal error after the loss of %s", self._url)
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(error)

    def _closing(self) -> None:
        if self._error is None and not self._is_closing:
            self._is_closing = True
            self._side.spawn(self._until_closed, name="ensync websocket end")

    async def _until_closed(self) -> None:
        # An engine may say that it closes, and never do it. Whatever is sent now waits for that,
        # for as long as a closing handshake may take, and ends the connection then.
        with suppress(ConnectionClosed):
            await websocket_socket.ping(self._socket)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ConnectionClosed):
            self.abort(self._closed(error))
        elif isinstance(error, WebSocketTextError):
            self.abort(self._given_up(f"the engine sent {error}", error))
        else:
            # Whatever went wrong, a link that is not read or not written must not seem alive.
            logger.error("internal error on the link to %s", self._url, exc_info=error)
            self.abort(self._given_up(f"internal error: {error!r}", error, code="internal_error"))

    def _closed(self, error: ConnectionClosed) -> EnSyncConnectionError:
        if error.sent is not None and not error.rcvd_then_sent:
            return self._given_up(f"what the engine sent is not accepted ({error.sent})", error)
        reason = "it broke off" if error.rcvd is None else f"the engine closed it ({error.rcvd})"
        lost = EnSyncConnectionError(
            f"the connection to {self._url} was lost: {reason}", code="link_lost"
        )
        lost.__cause__ = error
        return lost

    def _given_up(
        self, reason: str, cause: Exception, code: str = "protocol_error"
    ) -> EnSyncConnectionError:
        error = EnSyncConnectionError(
            f"the connection to {self._url} was given up: {reason}", code=code
        )
        error.__cause__ = cause
        return error


def _log_unsubscribed(answer: Outcome | EnSyncError) -> None:
    logger.debug("unsubscribed from what was registered in vain: %s", answer)


def _read_identity(frame: ServerFrame) -> Identity:
    if frame.kind is FrameKind.FAIL:
        raise EnSyncAuthenticationError(
            f"the engine refuses this app key: {frame.text or 'no reason given'}"
        )
    return parse_identity(frame)


def _read_registration(event_name: str, frame: ServerFrame) -> None:
    if frame.kind is FrameKind.FAIL:
        raise EnSyncSubscriptionError(
            f"the engine refuses the subscription to {event_name!r}: "
            f"{frame.text or 'no reason given'}",
            event_name=event_name,
        )
    if frame.kind is not FrameKind.PASS:
        raise WebSocketTextError(f"{frame.kind.value} in reply to SUB")
