"""What the page shows, as one JSON value: bounded, and without payloads, keys and client ids."""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import nlargest
from typing import Any

from ensync.server.clients import ConnectedClient
from ensync.server.local import LocalEngine
from ensync.server.store import QueueCounts
from ensync.server.ui.latest import LatestEvents, SeenEvent
from ensync.server.ui.queues import CountedQueues
from ensync.server.ui.rates import RateHistory

__all__ = ["View"]

_SHOWN_QUEUES = 200
_SHOWN_CLIENTS = 100
_SHOWN_SUBSCRIPTIONS = 20


class View:
    """Looks at an engine.

    Args:
        engine: A running engine.
        clock: Seconds, never going back.

    Attributes:
        latest: The latest events. It is to be told of each.
    """

    def __init__(self, engine: LocalEngine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._history = RateHistory(clock(), engine.statistics())
        self._queues = CountedQueues(engine.broker.store, clock)
        self.latest = LatestEvents()

    def sample(self) -> None:
        """Notes what has been done up to now."""
        self._history.sample(self._clock(), self._engine.statistics())

    async def show(self) -> dict[str, Any]:
        """Everything there is to see."""
        engine, names = self._engine, _Names(self._engine)
        counts = await self._queues.counts()
        return {
            "url": engine.url,
            "websocket_url": engine.websocket_url,
            "now_ms": time.time_ns() // 1_000_000,
            "statistics": engine.statistics()._asdict(),
            "totals": _totals(counts),
            "rates": [_rounded(rates) for rates in self._history.until(self._clock())],
            "queues": _queues(counts, names),
            "clients": _clients(engine.broker.clients, names),
            "events": [_event(event, names) for event in self.latest.newest_first()],
        }


class _Names:
    """What people call the apps."""

    def __init__(self, engine: LocalEngine) -> None:
        self._names = {record.app_id: record.name for record in engine.apps.list()}

    def of(self, app_id: str) -> str:
        return self._names.get(app_id) or f"{app_id} (removed)"


def _rounded(rates: tuple[float, ...]) -> list[float]:
    return [round(number, 2) for number in rates]


def _totals(counts: list[QueueCounts]) -> dict[str, int]:
    return {
        "waiting": sum(queue.waiting for queue in counts),
        "leased": sum(queue.leased for queue in counts),
        "deferred": sum(queue.deferred for queue in counts),
        "discarded": sum(queue.discarded for queue in counts),
        "expired": sum(queue.expired for queue in counts),
    }


def _queues(counts: list[QueueCounts], names: _Names) -> dict[str, Any]:
    def still_open(queue: QueueCounts) -> int:
        return queue.waiting + queue.leased + queue.deferred

    # In an order that stays, so that nothing moves under the eyes.
    shown = sorted(
        nlargest(_SHOWN_QUEUES, counts, key=still_open),
        key=lambda queue: (names.of(queue.queue.app_id), queue.queue.event_name),
    )
    return {"total": len(counts), "shown": [_queue(queue, names) for queue in shown]}


def _queue(queue: QueueCounts, names: _Names) -> dict[str, Any]:
    return {
        "app": names.of(queue.queue.app_id),
        "event_name": queue.queue.event_name,
        "waiting": queue.waiting,
        "leased": queue.leased,
        "deferred": queue.deferred,
        "discarded": queue.discarded,
        "expired": queue.expired,
    }


def _clients(clients: list[ConnectedClient], names: _Names) -> dict[str, Any]:
    return {
        "total": len(clients),
        "shown": [_client(client, names) for client in clients[:_SHOWN_CLIENTS]],
    }


def _client(client: ConnectedClient, names: _Names) -> dict[str, Any]:
    subscribed = sorted(client.consumers)
    return {
        "app": names.of(client.app_id),
        "subscriptions": {
            "total": len(subscribed),
            "shown": [
                {"event_name": name, "paused": client.is_paused(name)}
                for name in subscribed[:_SHOWN_SUBSCRIPTIONS]
            ],
        },
    }


def _event(event: SeenEvent, names: _Names) -> dict[str, Any]:
    return {
        "idem": event.idem,
        "event_name": event.event_name,
        "sender": names.of(event.sender),
        "recipient": names.of(event.recipient),
        "logged_at_ms": event.logged_at_ms,
        "plain_bytes": event.plain_bytes(),
        "sealed_bytes": event.sealed_bytes,
        "metadata": event.metadata,
        "metadata_length": event.metadata_length,
    }
