"""Registrations that are made again: after a lost connection, and when a stream ended by itself."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio

from ensync.connection import Connection, SessionSettings
from ensync.errors import EnSyncError
from ensync.reconnecting import Decision, GiveUp, ReconnectDecisions, TryAfter
from ensync.subscriber import Subscriber

__all__ = ["Repairs"]

logger = logging.getLogger("ensync")


class Registrar(Protocol):
    """Who registers subscriptions, as seen from here."""

    @property
    def settings(self) -> SessionSettings: ...

    def has(self, subscriber: Subscriber) -> bool:
        """Whether it is still to be registered."""
        ...

    async def subscribe(
        self, connection: Connection, subscriber: Subscriber, deadline: float
    ) -> None:
        """Has the engine register it, if it is not by now."""

    def give_up(self, subscriber: Subscriber, error: EnSyncError) -> None:
        """Nothing is tried any more for this one."""


class Repairs:
    """What is to be registered again, each by one task at a time."""

    def __init__(
        self, registrar: Registrar, new_decisions: Callable[[], ReconnectDecisions]
    ) -> None:
        self._registrar = registrar
        self._new_decisions = new_decisions
        self._decisions: dict[Subscriber, ReconnectDecisions] = {}
        self._due: dict[Subscriber, EnSyncError | None] = {}
        self._in_repair: set[Subscriber] = set()
        self._something_due = anyio.Event()

    def missing(self, subscriber: Subscriber) -> None:
        """It has no registration on this connection yet."""
        self._due.setdefault(subscriber, None)

    def broke(self, subscriber: Subscriber, error: EnSyncError) -> None:
        """Its registration has ended."""
        self._due[subscriber] = error
        self._something_due.set()

    def forget(self, subscriber: Subscriber) -> None:
        """It was left."""
        self._due.pop(subscriber, None)
        self._decisions.pop(subscriber, None)

    def clear(self) -> None:
        """The connection is gone, and will be followed by another, or by none."""
        self._due.clear()

    async def run(self, connection: Connection) -> None:
        """Repairs whatever is due on this connection, until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._something_due = anyio.Event()
                for subscriber in [due for due in self._due if due not in self._in_repair]:
                    decision = self._begin(subscriber)
                    tasks.start_soon(self._repair, connection, subscriber, decision)
                await self._something_due.wait()

    def _begin(self, subscriber: Subscriber) -> Decision:
        error = self._due.pop(subscriber)
        self._in_repair.add(subscriber)
        decisions = self._decisions.setdefault(subscriber, self._new_decisions())
        if error is None:
            return TryAfter(0)
        # That it was registered is all that a stream is for: an engine that ends it again
        # and again is asked again and again, after ever longer waits.
        return decisions.lost(error, anyio.current_time(), useful=True)

    async def _repair(
        self, connection: Connection, subscriber: Subscriber, decision: Decision
    ) -> None:
        async def subscribe() -> None:
            # Whatever broke while this waited is repaired by it.
            self._due.pop(subscriber, None)
            subscriber.detached()
            deadline = anyio.current_time() + self._registrar.settings.request_timeout
            await self._registrar.subscribe(connection, subscriber, deadline)

        try:
            again = await self._until_done(connection, subscriber, decision, subscribe)
        finally:
            # From here on its stream may end once more, also while the pause is restored.
            self._in_repair.discard(subscriber)
            self._something_due.set()
        # Should this fail, it alone is tried again: the registration is good.
        done = again and await self._until_done(
            connection, subscriber, TryAfter(0), subscriber.restore_pause
        )
        if done and self._registrar.has(subscriber):
            self._decisions[subscriber].connected(anyio.current_time())

    async def _until_done(
        self,
        connection: Connection,
        subscriber: Subscriber,
        decision: Decision,
        step: Callable[[], Awaitable[None]],
    ) -> bool:
        """Tries one step until it succeeds; False when there is nothing more to try."""
        while self._registrar.has(subscriber):
            if isinstance(decision, GiveUp):
                self._registrar.give_up(subscriber, decision.error)
                return False
            await anyio.sleep(decision.delay)
            try:
                await step()
            except EnSyncError as failure:
                if connection.is_lost or not self._registrar.has(subscriber):
                    return False
                logger.info("subscribing again to %r failed: %s", subscriber.event_name, failure)
                decision = self._after(subscriber, failure)
            else:
                return True
        return False

    def _after(self, subscriber: Subscriber, failure: EnSyncError) -> Decision:
        return self._decisions[subscriber].failed(failure) if failure.retryable else GiveUp(failure)
