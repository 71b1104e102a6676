"""On which gRPC stream events go out: one for each name, or one for all of a client."""

from __future__ import annotations

from abc import ABC, abstractmethod

import anyio
from anyio.abc import TaskGroup
from grpclib.const import Status

from ensync.scopes import background_tasks
from ensync.server.broker import Broker
from ensync.server.consumer import Consumer, EndReason
from ensync.server.grpc_call import CallFailed, GrpcCall
from ensync.server.grpc_methods import to_message
from ensync.server.hooks import DoorCall, DoorHooks

__all__ = ["EventStreams", "OneStreamForAll", "StreamForEach"]

_STATUS_OF = {
    EndReason.CLOSED: Status.UNAVAILABLE,
    EndReason.UNSUBSCRIBED: Status.OK,
    # Not a status that clients take for passing: two streams would replace each other for ever.
    EndReason.REPLACED: Status.ALREADY_EXISTS,
    EndReason.CLIENT_GONE: Status.UNAUTHENTICATED,
    EndReason.SHUTDOWN: Status.UNAVAILABLE,
}


class EventStreams(ABC):
    """Answers Subscribe calls."""

    def __init__(self, broker: Broker, hooks: DoorHooks, *, early_headers: bool) -> None:
        self._broker = broker
        self._hooks = hooks
        self._early_headers = early_headers

    @abstractmethod
    async def serve(self, call: GrpcCall, door_call: DoorCall) -> None:
        """Registers a subscription and sends its events until it ends.

        Raises:
            Refusal: The broker refuses.
        """

    async def _begin(self, call: GrpcCall, door_call: DoorCall) -> None:
        await self._hooks.before_reply(door_call)
        if self._early_headers:
            await call.begin()

    async def _send_events(
        self, consumer: Consumer, call: GrpcCall, door_call: DoorCall, writing: anyio.Lock
    ) -> None:
        while batch := await consumer.take():
            for stored in batch:
                copies = await self._hooks.before_delivery(door_call, stored)
                for _ in range(copies):
                    # Two events must not be mixed when one waits to be sent on.
                    async with writing:
                        if consumer.holds(stored):
                            await call.send(to_message(stored))


class StreamForEach(EventStreams):
    """Each subscription's events go out on its own stream."""

    async def serve(self, call: GrpcCall, door_call: DoorCall) -> None:
        consumer = await self._broker.subscribe(door_call.client_id, door_call.event_name)
        try:
            await self._begin(call, door_call)
            await self._send_events(consumer, call, door_call, anyio.Lock(fast_acquire=True))
        finally:
            await _close(consumer)
        await _finish(call, consumer.end_reason)


class OneStreamForAll(EventStreams):
    """All events of a client go out on its first stream, as newer engines do it.

    Later Subscribe calls register their name and stay silent, or end at once.
    """

    def __init__(
        self, broker: Broker, hooks: DoorHooks, *, early_headers: bool, end_later_calls: bool
    ) -> None:
        super().__init__(broker, hooks, early_headers=early_headers)
        self._end_later_calls = end_later_calls
        self._carriers: dict[str, _Carrier] = {}

    async def serve(self, call: GrpcCall, door_call: DoorCall) -> None:
        carrier = self._carriers.get(door_call.client_id)
        if carrier is None:
            await self._carry(call, door_call)
        else:
            await self._register_only(carrier, call, door_call)

    async def _carry(self, call: GrpcCall, door_call: DoorCall) -> None:
        async with background_tasks() as pumps:
            carrier = _Carrier(call, pumps)
            self._carriers[door_call.client_id] = carrier
            try:
                await self._register(carrier, door_call)
                await self._begin(call, door_call)
                await carrier.empty.wait()
            finally:
                del self._carriers[door_call.client_id]
        await _finish(call, carrier.end_reason)

    async def _register_only(self, carrier: _Carrier, call: GrpcCall, door_call: DoorCall) -> None:
        pump = carrier.pumps.get(door_call.event_name)
        if pump is not None:
            await self._stay_beside(pump, call, door_call)
            return
        pump = await self._register(carrier, door_call)
        try:
            await self._stay_beside(pump, call, door_call)
        finally:
            if not self._end_later_calls:
                await _close(pump.consumer)

    async def _stay_beside(self, pump: _Pump, call: GrpcCall, door_call: DoorCall) -> None:
        await self._begin(call, door_call)
        if self._end_later_calls:
            await call.finish()
            return
        await pump.ended.wait()
        await _finish(call, pump.consumer.end_reason)

    async def _register(self, carrier: _Carrier, door_call: DoorCall) -> _Pump:
        consumer = await self._broker.subscribe(door_call.client_id, door_call.event_name)
        if self._carriers.get(door_call.client_id) is not carrier:
            await _close(consumer)
            raise CallFailed(Status.UNAVAILABLE, "the client's first stream has just ended")
        pump = carrier.pumps[door_call.event_name] = _Pump(consumer)
        carrier.tasks.start_soon(self._pump, carrier, pump, door_call)
        return pump

    async def _pump(self, carrier: _Carrier, pump: _Pump, door_call: DoorCall) -> None:
        try:
            await self._send_events(pump.consumer, carrier.call, door_call, carrier.writing)
        finally:
            await _close(pump.consumer)
            carrier.ended(pump)


class _Pump:
    """Moves one consumer's events to the stream that carries them."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.ended = anyio.Event()


class _Carrier:
    """The stream that carries all events of a client."""

    def __init__(self, call: GrpcCall, tasks: TaskGroup) -> None:
        self.call = call
        self.tasks = tasks
        self.writing = anyio.Lock(fast_acquire=True)
        self.pumps: dict[str, _Pump] = {}
        self.empty = anyio.Event()
        self.end_reason: EndReason | None = None

    def ended(self, pump: _Pump) -> None:
        if self.pumps.get(pump.consumer.event_name) is pump:
            del self.pumps[pump.consumer.event_name]
        pump.ended.set()
        if not self.pumps:
            self.end_reason = pump.consumer.end_reason
            self.empty.set()


async def _close(consumer: Consumer) -> None:
    with anyio.CancelScope(shield=True):
        await consumer.close()


async def _finish(call: GrpcCall, reason: EndReason | None) -> None:
    assert reason is not None
    await call.finish(_STATUS_OF[reason], reason.value)
