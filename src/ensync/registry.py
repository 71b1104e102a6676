"""The live subscriptions of a session: registered, routed to, and registered again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from ensync.connection import Answer, Connection, SessionSettings
from ensync.errors import (
    EnSyncError,
    EnSyncSubscriptionError,
    EnSyncTimeoutError,
)
from ensync.reconnecting import GiveUp, ReconnectDecisions
from ensync.registrations import Registration
from ensync.repairs import Repairs
from ensync.subscriber import Subscriber
from ensync.transports.base import (
    Delivery,
    Request,
    Stream,
    StreamEnd,
    StreamEnded,
    Unsubscribe,
)
from ensync.transports.bridge import AsyncioSide

__all__ = ["SubscriptionRegistry"]

logger = logging.getLogger("ensync")


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
        self._repairs = Repairs(self, new_decisions)
        self.unsolicited = 0

    @property
    def names(self) -> list[str]:
        return sorted(self._subscribers)

    @property
    def settings(self) -> SessionSettings:
        return self._session.settings

    def detached(self) -> None:
        """The connection is gone, and every stream with it."""
        self._repairs.clear()
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
                await self.subscribe(connection, subscriber, deadline)
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
        connection = self._session.current
        if connection is None:
            return
        registration = None if stream is None else connection.registrations.of(stream)
        if registration is not None:
            self._leave(connection, registration)
        elif not self._subscribers:
            connection.registrations.drop_left()

    def _leave(self, connection: Connection, registration: Registration) -> None:
        connection.registrations.leave(registration, others=bool(self._subscribers))

    def has(self, subscriber: Subscriber) -> bool:
        """Whether it is still to be registered."""
        # The name may be another subscription's by now.
        return self._subscribers.get(subscriber.event_name) is subscriber

    def _forget(self, subscriber: Subscriber) -> None:
        self._repairs.forget(subscriber)
        if self.has(subscriber):
            del self._subscribers[subscriber.event_name]

    async def subscribe(
        self, connection: Connection, subscriber: Subscriber, deadline: float
    ) -> None:
        """Has the engine register it on this connection, if it is not by now.

        Raises:
            EnSyncSubscriptionError: The engine refuses.
            EnSyncConnectionError: The connection was lost meanwhile, or it took too long.
        """
        name = subscriber.event_name
        with anyio.CancelScope(deadline=deadline):
            async with self._one_at_a_time(name):
                # It may be left meanwhile, and the name another's, to be left alone.
                while self.has(subscriber) and not subscriber.is_attached:
                    await connection.registrations.none_is_void()
                    if await self._register(connection, subscriber, deadline):
                        break
            return
        raise EnSyncTimeoutError(
            f"the engine did not register the subscription to {name!r} in time", event_name=name
        )

    async def _register(
        self, connection: Connection, subscriber: Subscriber, deadline: float
    ) -> bool:
        """Asks the engine once; False when that was in vain, and no fault of this one."""
        name = subscriber.event_name
        registration = connection.registrations.begin(name)

        def on_delivery(delivery: Delivery) -> None:
            self._route(connection, registration, delivery)

        def on_end(ended: StreamEnded) -> None:
            self._stream_ended(connection, subscriber, registration, ended)

        try:
            with registration.asking:
                registration.stream = await self._session.side.run(
                    connection.live_link.subscribe, name, on_delivery, on_end
                )
        except BaseException:
            connection.registrations.drop(registration)
            raise
        if registration.stream is None or registration.is_void:
            connection.registrations.drop(registration)
            return False
        if not self.has(subscriber):
            await self._take_back(connection, registration, deadline)
        elif not connection.is_lost:
            subscriber.attached(connection, registration.stream)
            self._tell_who_shares(connection, registration)
            if registration.ended is not None:
                on_end(registration.ended)
        return True

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
        self, connection: Connection, registration: Registration, deadline: float
    ) -> None:
        # It was left while it was being registered.
        try:
            request = Unsubscribe(registration.event_name)
            await self._session.exchange(connection, request, deadline)
        finally:
            self._leave(connection, registration)

    def _tell_who_shares(self, connection: Connection, registered: Registration) -> None:
        carrier = connection.registrations.carrier
        if carrier is None or carrier is registered:
            return
        subscriber = self._subscribers.get(carrier.event_name)
        if subscriber is not None:
            subscriber.may_share_stream()

    def _route(
        self, connection: Connection, registration: Registration, delivery: Delivery
    ) -> None:
        connection.registrations.saw_delivery(registration, delivery.event_name)
        subscriber = self._subscribers.get(delivery.event_name)
        if subscriber is None:
            # It stays unsettled: the engine hands it out again.
            self.unsolicited += 1
            logger.debug(
                "an event of %r arrived, to which nobody is subscribed", delivery.event_name
            )
            return
        connection.was_useful = True
        subscriber.deliver(delivery)

    def _stream_ended(
        self,
        connection: Connection,
        subscriber: Subscriber,
        registration: Registration,
        ended: StreamEnded,
    ) -> None:
        registrations = connection.registrations
        if connection.is_lost or registration not in registrations:
            return  # another has taken its place
        if registration.stream is None:
            registration.ended = ended
            return
        if ended.reason is StreamEnd.UNAUTHENTICATED:
            connection.unknown_to_engine(str(ended.error))
            return
        carried_all = registrations.carries_all(registration)
        goes_on = registrations.may_go_on(registration, ended)
        registrations.drop(registration)
        if ended.reason is StreamEnd.REFUSED:
            self.give_up(subscriber, ended.error)
        if carried_all:
            registrations.drop_all()
            self._all_broke(ended.error)
        elif self.has(subscriber) and not (goes_on and registrations.multiplexing):
            # One that may go on is taken to do so until it is made again.
            if not goes_on:
                subscriber.detached()
            self._repairs.broke(subscriber, ended.error)

    def _all_broke(self, error: EnSyncError) -> None:
        for subscriber in self._subscribers.values():
            if subscriber.is_attached:
                subscriber.detached()
                self._repairs.broke(subscriber, error)

    async def keep(self, connection: Connection) -> None:
        """Registers everything on a new connection, and again whatever ends by itself."""
        for name, subscriber in self._subscribers.items():
            if name not in self._adding and not subscriber.is_attached:
                self._repairs.missing(subscriber)
        await self._repairs.run(connection)

    def give_up(self, subscriber: Subscriber, error: EnSyncError) -> None:
        """Nothing is tried any more for this one, unless it was left anyway."""
        if self.has(subscriber):
            self._forget(subscriber)
            subscriber.failed(error)


async def _wait_to_retry(
    decisions: ReconnectDecisions, failure: EnSyncError, deadline: float
) -> None:
    decision = decisions.failed(failure) if failure.retryable else GiveUp(failure)
    if isinstance(decision, GiveUp):
        raise decision.error
    if anyio.current_time() + decision.delay >= deadline:
        raise failure
    await anyio.sleep(decision.delay)
