"""The live subscriptions of a session: registered, routed to, and registered again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

import anyio

from ensync.acknowledgements import Acknowledger
from ensync.connection import Answer, Connection, SessionSettings
from ensync.errors import (
    EnSyncError,
    EnSyncSubscriptionError,
    EnSyncTimeoutError,
)
from ensync.reconnecting import Decision, GiveUp, ReconnectDecisions, TryAfter
from ensync.transports.base import (
    Delivery,
    Request,
    Stream,
    StreamEnd,
    StreamEnded,
    Unsubscribe,
)
from ensync.transports.bridge import AsyncioSide

__all__ = ["Subscriber", "SubscriptionRegistry"]

logger = logging.getLogger("ensync")


class Subscriber(Acknowledger, Protocol):
    """A subscription, as seen from here."""

    def deliver(self, delivery: Delivery) -> None:
        """Takes one event. Called by the reader: returns at once."""

    @property
    def is_attached(self) -> bool:
        """Whether it has a stream."""
        ...

    def attached(self, connection: Connection, stream: Stream) -> None:
        """The engine has registered the subscription on this connection."""

    async def restore_pause(self) -> None:
        """Pauses a new registration if the subscription is paused."""

    def may_share_stream(self) -> None:
        """From now on, events of other names may come on this subscription's stream."""

    def detached(self) -> None:
        """The stream is gone; another will come, or failed() will be called."""

    def retry(self) -> None:
        """Sends again what had no answer. Called now and then."""

    def failed(self, error: EnSyncError) -> None:
        """No stream will come any more."""


class Connections(Protocol):
    """The session, as seen from here."""

    @property
    def side(self) -> AsyncioSide: ...

    @property
    def settings(self) -> SessionSettings: ...

    @property
    def current(self) -> Connection | None:
        """The connection, if there is one now."""
        ...

    async def connection(self, deadline: float) -> Connection:
        """The connection, waiting for one."""
        ...

    async def exchange(self, connection: Connection, request: Request, deadline: float) -> Answer:
        """Sends a request once and waits for its answer."""
        ...

    def unknown_to_engine(self, message: str) -> None:
        """The engine answered that it does not know this client."""


class _Broken(NamedTuple):
    subscriber: Subscriber
    error: EnSyncError


class SubscriptionRegistry:
    """Owned by a session."""

    def __init__(
        self, session: Connections, new_decisions: Callable[[], ReconnectDecisions]
    ) -> None:
        self._session = session
        self._new_decisions = new_decisions
        self._subscribers: dict[str, Subscriber] = {}
        self._adding: set[str] = set()
        self._registering: dict[str, anyio.Lock] = {}
        self._decisions: dict[str, ReconnectDecisions] = {}
        self._broken: deque[_Broken] = deque()
        self._something_broke = anyio.Event()
        self._orphans: list[Stream] = []
        self.unsolicited = 0

    @property
    def names(self) -> list[str]:
        return sorted(self._subscribers)

    def detached(self) -> None:
        """The connection is gone, and every stream with it."""
        self._broken.clear()
        self._orphans.clear()
        for subscriber in self._subscribers.values():
            subscriber.detached()

    def failed(self, error: EnSyncError) -> None:
        """There will be no connection any more."""
        for subscriber in list(self._subscribers.values()):
            subscriber.failed(error)

    def retry(self) -> None:
        for subscriber in self._subscribers.values():
            subscriber.retry()

    async def add(self, subscriber: Subscriber) -> None:
        """Registers a subscription with the engine.

        Raises:
            EnSyncSubscriptionError: The engine refuses, or the name is taken.
            EnSyncConnectionError: The engine can't be reached in time.
        """
        name = subscriber.event_name
        if name in self._subscribers:
            raise EnSyncSubscriptionError(
                f"this client is subscribed to {name!r} already: "
                "iterate the first subscription from several tasks instead",
                code="already_subscribed",
                event_name=name,
            )
        self._subscribers[name] = subscriber
        self._adding.add(name)
        try:
            await self._add(subscriber)
        except BaseException:
            self._forget(subscriber)
            raise
        finally:
            self._adding.discard(name)

    async def _add(self, subscriber: Subscriber) -> None:
        deadline = anyio.current_time() + self._session.settings.request_timeout
        decisions = self._new_decisions()
        while True:
            connection = await self._session.connection(deadline)
            try:
                await self._subscribe(connection, subscriber, deadline)
            except EnSyncTimeoutError:
                raise
            except EnSyncError as failure:
                if not connection.is_lost:
                    await _wait_to_retry(decisions, failure, deadline)
                continue
            if not connection.is_lost:
                return

    def remove(self, subscriber: Subscriber, stream: Stream | None) -> None:
        """Forgets a subscription and ends its stream, so that others get its events."""
        self._forget(subscriber)
        if stream is not None:
            self._end_stream(subscriber, stream)

    def _has(self, subscriber: Subscriber) -> bool:
        # The name may be another subscription's by now.
        return self._subscribers.get(subscriber.event_name) is subscriber

    def _forget(self, subscriber: Subscriber) -> None:
        if self._has(subscriber):
            del self._subscribers[subscriber.event_name]
            self._decisions.pop(subscriber.event_name, None)

    def _end_stream(self, subscriber: Subscriber, stream: Stream) -> None:
        if self._carries_others(subscriber):
            self._orphans.append(stream)
        else:
            stream.close()
        if not self._subscribers:
            for orphan in self._orphans:
                orphan.close()
            self._orphans.clear()

    def _carries_others(self, subscriber: Subscriber) -> bool:
        connection = self._session.current
        return (
            connection is not None
            and connection.first_stream == subscriber.event_name
            and connection.multiplexing is not False
            and bool(self._subscribers)
        )

    async def _subscribe(
        self, connection: Connection, subscriber: Subscriber, deadline: float
    ) -> None:
        name = subscriber.event_name
        if connection.first_stream is None:
            connection.first_stream = name

        def on_delivery(delivery: Delivery) -> None:
            self._route(connection, name, delivery)

        def on_end(ended: StreamEnded) -> None:
            self._stream_ended(connection, subscriber, ended)

        with anyio.CancelScope(deadline=deadline):
            async with self._one_at_a_time(name):
                if not self._has(subscriber):
                    return  # left meanwhile; the name may be another's, to be left alone
                stream = await self._session.side.run(
                    connection.live_link.subscribe, name, on_delivery, on_end
                )
                if self._has(subscriber):
                    subscriber.attached(connection, stream)
                    self._registered(connection, name)
                else:
                    await self._take_back(connection, subscriber, stream, deadline)
            return
        raise EnSyncTimeoutError(
            f"the engine did not register the subscription to {name!r} in time", event_name=name
        )

    @asynccontextmanager
    async def _one_at_a_time(self, name: str) -> AsyncIterator[None]:
        """Keeps the taking back of one registration from hitting the next one of that name."""
        lock = self._registering.setdefault(name, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._registering.pop(name, None)

    async def _take_back(
        self, connection: Connection, subscriber: Subscriber, stream: Stream, deadline: float
    ) -> None:
        # It was left while it was being registered.
        try:
            await self._session.exchange(connection, Unsubscribe(subscriber.event_name), deadline)
        finally:
            self._end_stream(subscriber, stream)

    def _registered(self, connection: Connection, name: str) -> None:
        if name == connection.first_stream:
            return
        connection.has_other_streams = True
        first = self._subscribers.get(connection.first_stream or "")
        if first is not None:
            first.may_share_stream()

    def _route(self, connection: Connection, stream_name: str, delivery: Delivery) -> None:
        connection.saw_delivery(stream_name, delivery.event_name)
        subscriber = self._subscribers.get(delivery.event_name)
        if subscriber is None:
            # It stays unsettled: the engine hands it out again.
            self.unsolicited += 1
            logger.debug(
                "an event of %r arrived, to which nobody is subscribed", delivery.event_name
            )
            return
        subscriber.deliver(delivery)

    def _stream_ended(
        self, connection: Connection, subscriber: Subscriber, ended: StreamEnded
    ) -> None:
        if connection is not self._session.current or connection.is_lost:
            return
        name = subscriber.event_name
        if ended.reason is StreamEnd.UNAUTHENTICATED:
            self._session.unknown_to_engine(str(ended.error))
        elif ended.reason is StreamEnd.REFUSED:
            self._give_up(subscriber, ended.error)
        elif name == connection.first_stream and connection.multiplexing:
            self._carrier_ended(connection, ended.error)
        elif not (connection.multiplexing and ended.reason is StreamEnd.FINISHED):
            self._broke(subscriber, ended.error)

    def _carrier_ended(self, connection: Connection, error: EnSyncError) -> None:
        connection.first_stream = None
        for subscriber in self._subscribers.values():
            self._broke(subscriber, error)

    def _broke(self, subscriber: Subscriber, error: EnSyncError) -> None:
        subscriber.detached()
        self._broken.append(_Broken(subscriber, error))
        self._something_broke.set()

    async def keep(self, connection: Connection) -> None:
        """Registers everything on a new connection, and again whatever ends by itself."""
        async with anyio.create_task_group() as tasks:
            for name, subscriber in list(self._subscribers.items()):
                if name not in self._adding and not subscriber.is_attached:
                    tasks.start_soon(self._repair, connection, subscriber, None)
            while True:
                while self._broken:
                    broken = self._broken.popleft()
                    if self._has(broken.subscriber):
                        tasks.start_soon(self._repair, connection, broken.subscriber, broken.error)
                self._something_broke = anyio.Event()
                await self._something_broke.wait()

    async def _repair(
        self, connection: Connection, subscriber: Subscriber, error: EnSyncError | None
    ) -> None:
        name, now = subscriber.event_name, anyio.current_time
        decisions = self._decisions.setdefault(name, self._new_decisions())
        decision: Decision = TryAfter(0) if error is None else decisions.lost(error, now())
        registered = False
        while self._has(subscriber):
            if isinstance(decision, GiveUp):
                self._give_up(subscriber, decision.error)
                return
            await anyio.sleep(decision.delay)
            try:
                if not registered:
                    await self._subscribe_again(connection, subscriber)
                    registered = True
                # Should this fail, it alone is tried again: the registration is good.
                await subscriber.restore_pause()
            except EnSyncError as failure:
                if connection.is_lost:
                    return
                logger.info("subscribing again to %r failed: %s", name, failure)
                decision = decisions.failed(failure) if failure.retryable else GiveUp(failure)
            else:
                decisions.connected(now())
                return

    def _give_up(self, subscriber: Subscriber, error: EnSyncError) -> None:
        self._forget(subscriber)
        subscriber.failed(error)

    async def _subscribe_again(self, connection: Connection, subscriber: Subscriber) -> None:
        deadline = anyio.current_time() + self._session.settings.request_timeout
        await self._subscribe(connection, subscriber, deadline)


async def _wait_to_retry(
    decisions: ReconnectDecisions, failure: EnSyncError, deadline: float
) -> None:
    decision = decisions.failed(failure) if failure.retryable else GiveUp(failure)
    if isinstance(decision, GiveUp):
        raise decision.error
    if anyio.current_time() + decision.delay >= deadline:
        raise failure
    await anyio.sleep(decision.delay)
