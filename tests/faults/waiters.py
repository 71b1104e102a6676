"""Everything that can wait on a client at once, and how and when each came to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Unpack

import anyio.abc

import ensync
from ensync.engine import EngineOptions
from ensync.testing.watch import Watch
from tests.conformance.harness import Target, publish_all, take_one

__all__ = ["FLOWS", "REQUESTS", "BusyClient", "Waiters", "busy_client", "state_reached"]

REQUESTS = frozenset({"publish", "publish_many", "ack", "replay", "pause", "subscribe"})
"""What asks the engine for something."""

FLOWS = frozenset({"iterator", "for_each", "states"})
"""What waits for something to come."""


async def state_reached(client: ensync.EnSyncClient, wanted: ensync.ClientState) -> float:
    """Waits for a state; returns the time at which it was seen."""
    async for state in client.states():
        if state is wanted:
            break
    return anyio.current_time()


class Waiters:
    """Tasks, and how each ended: with a result, or with an error of ours."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._watch = Watch()
        self.waiting: set[str] = set()
        self.results: dict[str, Any] = {}
        self.errors: dict[str, ensync.EnSyncError] = {}
        self.ended_at: dict[str, float] = {}

    def start(self, name: str, wait: Callable[[], Awaitable[object]]) -> None:
        """Starts one more to wait."""
        self.waiting.add(name)
        self._tasks.start_soon(self._run, name, wait)

    async def _run(self, name: str, wait: Callable[[], Awaitable[object]]) -> None:
        try:
            self.results[name] = await wait()
        except ensync.EnSyncError as error:
            self.errors[name] = error
        self.waiting.discard(name)
        self.ended_at[name] = anyio.current_time()
        self._watch.notify()

    async def ended(self, names: Collection[str]) -> None:
        """Waits until all of these have ended."""
        await self._watch.until(lambda: not self.waiting & set(names))


class BusyClient(NamedTuple):
    """A client in the middle of its work: two subscriptions, and an event in hand."""

    client: ensync.EnSyncClient
    read: ensync.Subscription[Any]
    handled: ensync.Subscription[Any]
    in_hand: ensync.Event[Any]

    def wait_for_everything(self, tasks: anyio.abc.TaskGroup) -> Waiters:
        """Waits for all that a client can be asked for."""
        waiters = Waiters(tasks)
        waiters.start("iterator", lambda: take_one(self.read))
        waiters.start("for_each", lambda: self.handled.for_each(_ignore))
        waiters.start("states", self._last_state)
        waiters.start("publish", lambda: publish_all(self.client, "elsewhere", [1]))
        waiters.start("publish_many", self._publish_many)
        waiters.start("ack", self.in_hand.ack)
        waiters.start("replay", lambda: self.read.replay(self.in_hand.idem))
        waiters.start("pause", self.handled.pause)
        waiters.start("subscribe", self._subscribe)
        assert waiters.waiting == REQUESTS | FLOWS
        return waiters

    async def _last_state(self) -> ensync.ClientState:
        return [state async for state in self.client.states()][-1]

    async def _publish_many(self) -> ensync.Receipt:
        events = [ensync.OutgoingEvent("elsewhere", [self.client.app_id], 1)]
        async with self.client.publish_many(events) as outcomes:
            return (await anext(outcomes)).unwrap()

    async def _subscribe(self) -> None:
        async with self.client.subscribe("new"):
            return


async def _ignore(_event: ensync.Event[Any]) -> None:
    """Done with it."""


@asynccontextmanager
async def busy_client(
    target: Target, event_name: str, **options: Unpack[EngineOptions]
) -> AsyncIterator[BusyClient]:
    """A client in the middle of its work."""
    options.setdefault("drain_timeout", 0.1)
    async with (
        target.connect(**options) as client,
        client.subscribe(event_name, auto_ack=False) as read,
        client.subscribe(f"{event_name}/handled") as handled,
    ):
        await publish_all(client, event_name, ["in hand"])
        yield BusyClient(client, read, handled, await take_one(read))
