"""One client's connection to the WebSocket door (PROTOCOL 4)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ensync import websocket_socket
from ensync.scopes import background_tasks
from ensync.server.broker import Broker
from ensync.server.consumer import Consumer, EndReason
from ensync.server.hooks import DoorCall, DoorConnection, DoorFault, DoorHooks
from ensync.server.ordered_replies import OrderedReplies, Place
from ensync.server.refusal import Reason, Refusal, shown
from ensync.server.store import StoredEvent
from ensync.server.websocket_commands import SELF_CONTAINED, execute, record_of
from ensync.server.websocket_request import ParsedRequest, parse_request
from ensync.websocket_text import (
    PING,
    PONG,
    Command,
    FrameKind,
    WebSocketTextError,
    encode_identity,
)

__all__ = ["WebSocketConnection"]

logger = logging.getLogger("ensync")

_MAX_UNANSWERED = 256
_MAX_CLIENTS = 64

# Longer requests are handled one at a time, so that few of them are in memory at once.
_LARGE = 64 * 1024

_TIME_FOR_LAST_REQUESTS = 1.0  # seconds
_TIME_TO_READ_AGAIN = 1.0  # seconds

_GOING_AWAY = 1001
_INTERNAL_ERROR = 1011


_Handle: TypeAlias = Callable[[ParsedRequest], Awaitable[str]]


class _FrozenConnectionEnded(Exception):
    """A connection that was frozen is over, so that nothing more is to be done for it."""


class WebSocketConnection(DoorConnection):
    """Reads requests, answers them in order, and pushes events.

    Requests that concern one event are handled at the same time, since a store may
    take a while for each; any other waits until those before it are answered.

    Args:
        socket: The connection.
        broker: Decides.
        hooks: Called around all that is done.
        ping_interval: Seconds from one ping to the next, and for a pong to arrive.

    Attributes:
        client_ids: The clients that were made here.
    """

    def __init__(
        self, socket: ServerConnection, broker: Broker, hooks: DoorHooks, ping_interval: float
    ) -> None:
        self._socket = socket
        self._broker = broker
        self._hooks = hooks
        self._ping_interval = ping_interval
        self.client_ids: set[str] = set()
        self._replies = OrderedReplies(self._send, _MAX_UNANSWERED)
        self._sending = anyio.Lock(fast_acquire=True)
        self._is_frozen = False
        self._is_reading = False
        self._close_code = _GOING_AWAY
        self._leaving = anyio.Event()

    @property
    def unsent_bytes(self) -> int:
        """How much waits for the client to read it, in this process."""
        return self._socket.transport.get_write_buffer_size()

    async def run(self) -> None:
        """Serves this connection until it ends."""
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(self._or_end, self._keep_alive)
                tasks.start_soon(self._or_end, self._leave_when_told)
                tasks.start_soon(self._cancel_when_closed, tasks.cancel_scope)
                await self._or_end(self._listen, tasks)
        finally:
            with anyio.CancelScope(shield=True):
                await self._broker.connection_closed(self)

    # What hooks may do

    def abort(self) -> None:
        websocket_socket.abort(self._socket)

    def go_away(self, *, error: bool = False) -> None:
        self._close_code = _INTERNAL_ERROR if error else _GOING_AWAY
        self._leaving.set()

    def freeze(self) -> None:
        self._is_frozen = True
        self._socket.transport.pause_reading()

    # Reading

    async def _listen(self, tasks: TaskGroup) -> None:
        while True:
            message = await self._next_message()
            if message == PING:
                await self._send(PONG)
            elif message != PONG and not self._leaving.is_set():
                await self._requested(message, tasks)

    async def _next_message(self) -> str | bytes:
        self._is_reading = True
        try:
            message = await self._socket.recv()
        finally:
            self._is_reading = False
        await self._while_frozen()
        return message

    async def _requested(self, message: str | bytes, tasks: TaskGroup) -> None:
        try:
            request = _parse(message)
        except WebSocketTextError as error:
            await self._replies.fill(await self._replies.take_place(), _failure(error))
            return
        await self._begin(request, len(message), tasks)

    async def _begin(self, request: ParsedRequest, size: int, tasks: TaskGroup) -> None:
        stands_alone = request.command not in SELF_CONTAINED or size > _LARGE
        if stands_alone:
            await self._replies.all_sent()
        place = await self._replies.take_place()
        if not stands_alone:
            tasks.start_soon(self._or_end, self._answer, request, place, self._execute)
        elif request.command is Command.CONNECT:
            await self._answer(request, place, self._connect)
        elif request.command is Command.SUBSCRIBE:
            await self._subscribe(request, place, tasks)
        else:
            await self._answer(request, place, self._execute)

    # Handling

    async def _answer(self, request: ParsedRequest, place: Place, handle: _Handle) -> None:
        await self._replies.fill(place, await self._reply_to(request, handle))

    async def _reply_to(self, request: ParsedRequest, handle: _Handle) -> str | None:
        """The reply, whatever happens. None: a hook wants that there is none."""
        call, reply = self._call(request), None
        try:
            await self._hooks.before_handling(call)
            # What was begun is brought to an end, even if nobody is there to hear of it.
            with anyio.CancelScope(shield=True):
                reply = await handle(request)
            await self._hooks.before_reply(call)
        except DoorFault as fault:
            return None if fault.silent else _failure(fault)
        except (Refusal, WebSocketTextError) as refusal:
            if isinstance(refusal, Refusal) and refusal.reason is Reason.STOPPING:
                self.go_away()  # a failure would be for good, and a lost connection is not
                return None
            return _failure(refusal)
        except Exception:
            logger.exception("internal error in the WebSocket door, in %s", request.command)
            return FrameKind.FAIL.frame("internal error")
        return reply

    async def _connect(self, request: ParsedRequest) -> str:
        if len(self.client_ids) >= _MAX_CLIENTS:
            raise Refusal(
                Reason.LIMIT, f"too many clients on one connection: {_MAX_CLIENTS} are accepted"
            )
        client = self._broker.connect(request.text("ACCESS_KEY"), self)
        self.client_ids.add(client.client_id)
        return FrameKind.PASS.frame(encode_identity(client.client_id, client.app_id))

    async def _execute(self, request: ParsedRequest) -> str:
        self._check_client(request)
        return await execute(self._broker, request)

    def _check_client(self, request: ParsedRequest) -> None:
        client_id = request.text("CLIENT_ID")
        if client_id not in self.client_ids:
            raise Refusal(
                Reason.UNKNOWN_CLIENT,
                f"unknown client_id {shown(client_id)}: it was not made by a CONN on this "
                "connection",
            )

    # Subscriptions

    async def _subscribe(self, request: ParsedRequest, place: Place, tasks: TaskGroup) -> None:
        consumers: list[Consumer] = []

        async def register(request: ParsedRequest) -> str:
            self._check_client(request)
            client_id, event_name = request.text("CLIENT_ID"), request.text("EVENT_NAME")
            consumers.append(await self._broker.subscribe(client_id, event_name))
            return FrameKind.PASS.frame("subscribed")

        await self._answer(request, place, register)
        # Only now: there are clients that drop an event which comes before the reply.
        for consumer in consumers:
            tasks.start_soon(self._or_end, self._pump, self._call(request), consumer)

    async def _pump(self, call: DoorCall, consumer: Consumer) -> None:
        try:
            while batch := await self._next_events(consumer):
                for stored in batch:
                    await self._push(call, consumer, stored)
        finally:
            with anyio.CancelScope(shield=True):
                await consumer.close()
        if consumer.end_reason is EndReason.CLIENT_GONE:
            self.go_away()

    async def _next_events(self, consumer: Consumer) -> list[StoredEvent]:
        # There is no way to tell a client that one of its subscriptions fails, and the
        # others are well: it waits until the events can be read again. The store has logged why.
        while True:
            try:
                return await consumer.take()
            except Refusal as refusal:
                logger.debug("a subscription has to wait: %s", refusal)
                await anyio.sleep(_TIME_TO_READ_AGAIN)

    async def _push(self, call: DoorCall, consumer: Consumer, stored: StoredEvent) -> None:
        if not consumer.holds(stored):
            return
        for _ in range(await self._hooks.before_delivery(call, stored)):
            async with self._sending:
                if consumer.holds(stored):
                    await self._write(FrameKind.RECORD.frame(record_of(stored)))

    # Writing

    async def _send(self, text: str) -> None:
        # One at a time: else each subscription could put an event on top of a full buffer.
        async with self._sending:
            await self._write(text)

    async def _write(self, text: str) -> None:
        await self._while_frozen()
        await websocket_socket.send(self._socket, text)

    async def _while_frozen(self) -> None:
        if self._is_frozen:
            await self._socket.wait_closed()
            raise _FrozenConnectionEnded

    # Staying and leaving

    async def _keep_alive(self) -> None:
        while True:
            await anyio.sleep(self._ping_interval)
            await self._while_frozen()
            with anyio.move_on_after(self._ping_interval) as patience:
                await (await websocket_socket.ping(self._socket))
            if patience.cancelled_caught and self._waits_for_client:
                logger.info("a WebSocket client does not answer pings any more")
                self.abort()
            self._show_alive()

    @property
    def _waits_for_client(self) -> bool:
        # Otherwise its pong may well be there, and is not read while requests take their time.
        return self._is_reading or self._sending.locked()

    def _show_alive(self) -> None:
        # A client of this protocol has no other way to say that it is there.
        for client_id in list(self.client_ids):
            try:
                self._broker.heartbeat(client_id)
            except Refusal:
                self.client_ids.discard(client_id)
                self.go_away()

    async def _leave_when_told(self) -> None:
        await self._leaving.wait()
        if self._close_code != _INTERNAL_ERROR:
            await self._replies.all_sent()
        await self._while_frozen()
        await websocket_socket.close(self._socket, self._close_code)

    async def _cancel_when_closed(self, scope: anyio.CancelScope) -> None:
        await self._socket.wait_closed()
        # What was read before is still handled, unless that takes too long.
        await anyio.sleep(_TIME_FOR_LAST_REQUESTS)
        scope.cancel()

    async def _or_end(self, act: Callable[..., Awaitable[None]], *args: object) -> None:
        """Does something for as long as there is a connection to do it for."""
        try:
            await act(*args)
        except (ConnectionClosed, _FrozenConnectionEnded) as error:
            logger.debug("a WebSocket connection has ended: %r", error)
        except DoorFault as fault:
            logger.debug("a connection is cut on purpose: %s", fault)
            self.abort()
        except Exception:
            logger.exception("internal error in the WebSocket door")
            self.abort()

    def _call(self, request: ParsedRequest) -> DoorCall:
        return DoorCall(
            "websocket",
            request.command.name.lower(),
            request.text("CLIENT_ID"),
            request.text("EVENT_NAME"),
            self,
        )


def _parse(message: str | bytes) -> ParsedRequest:
    if isinstance(message, bytes):
        raise WebSocketTextError("a binary message; requests are text")
    return parse_request(message)


def _failure(error: Exception) -> str:
    return FrameKind.FAIL.frame(str(error))
