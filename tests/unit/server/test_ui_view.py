"""What the page is made of: that it counts right, and that all of it is bounded."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ensync.server.local import LocalEngine
from ensync.server.memory import MemoryStore
from ensync.server.statistics import Statistics
from ensync.server.store import NewEvent, QueueCounts, QueueKey, StoredEvent
from ensync.server.ui.latest import LatestEvents
from ensync.server.ui.queues import CountedQueues
from ensync.server.ui.rates import RateHistory
from ensync.server.ui.view import View

pytestmark = pytest.mark.anyio

NOTHING = Statistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
# All that the page may hold of the latest events, and send of everything, in bytes.
ALL_THE_EVENTS = 300_000
ALL_THE_STATE = 1 << 20


def event(number: int, **changes: Any) -> StoredEvent:
    made = NewEvent(QueueKey("to", f"name-{number}"), "from", "UEFZTE9BRA==", "{}")
    return StoredEvent(f"idem-{number}", number, 1_000 + number, made._replace(**changes))


def test_rates_are_what_was_counted_over_the_time_that_has_passed() -> None:
    history = RateHistory(100.0, NOTHING._replace(published=7))
    history.sample(102.0, NOTHING._replace(published=17, delivered=4, acknowledged=1))
    history.sample(102.5, NOTHING._replace(published=17, delivered=5, acknowledged=2))
    assert history.until(103.0) == [(1.0, 5.0, 2.0, 0.5), (0.5, 0.0, 2.0, 2.0)]


def test_no_time_is_no_rate() -> None:
    history = RateHistory(1.0, NOTHING)
    history.sample(1.0, NOTHING._replace(published=1))
    assert history.until(1.0) == []
    history.sample(2.0, NOTHING._replace(published=1))
    assert history.until(2.0) == [(0.0, 1.0, 0.0, 0.0)]


def test_rates_of_five_minutes_are_kept_and_no_more() -> None:
    history = RateHistory(0.0, NOTHING)
    for second in range(1, 1_000):
        history.sample(float(second), NOTHING._replace(published=second))
    rates = history.until(999.0)
    assert len(rates) == 300
    assert (rates[0].at, rates[-1].at) == (299.0, 0.0)


def test_the_latest_come_first_and_the_oldest_are_forgotten() -> None:
    latest = LatestEvents()
    for number in range(1_000):
        latest.see(event(number))
    shown = latest.newest_first()
    assert [one.idem for one in shown] == [f"idem-{number}" for number in range(999, 969, -1)]


def test_the_largest_events_are_remembered_in_little_memory_and_without_payloads() -> None:
    latest = LatestEvents()
    metadata = json.dumps({"long": "m" * 5_000_000})
    description = json.dumps({"byte_size": 3, "skeleton": {"f" * 60_000: "string"}})
    large = event(1, payload="UEFZ" * 1_000_000, metadata=metadata, payload_metadata=description)
    for _ in range(1_000):
        latest.see(large)
    shown = latest.newest_first()
    assert sum(len(str(one)) for one in shown) < ALL_THE_EVENTS
    assert "UEFZ" not in str(shown)
    assert shown[0].sealed_bytes == 4_000_000
    assert (shown[0].metadata_length, shown[0].plain_bytes()) == (len(metadata), None)
    assert metadata.startswith(shown[0].metadata)


@pytest.mark.parametrize(
    ("description", "size"),
    [
        (None, None),
        ("{}", None),
        ('{"byte_size": 12}', 12),
        ('{"byte_size": 12, "skeleton": {"byte_size": "integer"}}', 12),
    ],
)
def test_the_plain_size_is_what_the_sender_says(description: str | None, size: int | None) -> None:
    latest = LatestEvents()
    latest.see(event(1, payload_metadata=description))
    assert latest.newest_first()[0].plain_bytes() == size


class SlowStore(MemoryStore):
    """Takes time to count, on a clock of its own."""

    def __init__(self, takes: float) -> None:
        super().__init__()
        self.now = 0.0
        self.takes = takes
        self.counted = 0

    async def count_queues(self) -> list[QueueCounts]:
        self.counted += 1
        self.now += self.takes
        return [QueueCounts(QueueKey("app", "name"), waiting=self.counted)]


async def test_queues_are_counted_once_for_all_who_look() -> None:
    store = SlowStore(takes=0.0)
    queues = CountedQueues(store, lambda: store.now)
    for _ in range(10):
        await queues.counts()
    assert store.counted == 1
    store.now += 1.0
    assert (await queues.counts())[0].waiting == 2


@pytest.mark.parametrize("takes", [0.0, 0.01, 0.07, 0.5, 2.0])
async def test_counting_takes_a_twentieth_of_the_time_at_most(takes: float) -> None:
    store = SlowStore(takes)
    queues = CountedQueues(store, lambda: store.now)
    while store.now < 200:
        await queues.counts()
        store.now += 0.25
    assert store.counted * takes <= 220 / 20 + takes
    assert store.counted >= 200 / (1.25 + 21.25 * takes)


async def test_what_nobody_settled_in_time_is_counted() -> None:
    async with LocalEngine() as engine:
        view = View(engine, lambda: 0.0)
        await engine.broker.store.append(event(1, ttl_ms=1).event)
        with anyio.fail_after(5):
            while not engine.statistics().expired:
                await anyio.lowlevel.checkpoint()
        state = await view.show()
    (queue,) = state["queues"]["shown"]
    assert (queue["waiting"], queue["expired"]) == (0, 1)
    assert (state["totals"]["waiting"], state["totals"]["expired"]) == (0, 1)


async def test_what_is_sent_is_bounded() -> None:
    async with LocalEngine() as engine:
        app = engine.create_app("shop")
        view = View(engine, lambda: 0.0)
        for number in range(1_000):
            wordy = event(
                number, queue=QueueKey(app.app_id, f"{number:0>500}"), metadata="m" * 9_000
            )
            await engine.broker.store.append(wordy.event)
            view.latest.see(wordy)
        busiest = NewEvent(QueueKey(app.app_id, "busiest"), "", "", "{}")
        for _ in range(2):
            await engine.broker.store.append(busiest)
        for number in range(150):
            client = engine.broker.connect(app.app_key, f"connection {number}")
            for name in range(25 if number == 0 else 0):
                await engine.broker.subscribe(client.client_id, f"subscribed {name}")
        state = await view.show()
        await engine.broker.disconnect_app(app.app_id)
    assert len(json.dumps(state)) < ALL_THE_STATE
    assert (state["queues"]["total"], len(state["queues"]["shown"])) == (1_001, 200)
    assert "busiest" in [queue["event_name"] for queue in state["queues"]["shown"]]
    assert state["totals"]["waiting"] == 1_002
    assert (state["clients"]["total"], len(state["clients"]["shown"])) == (150, 100)
    (first, *_) = state["clients"]["shown"]
    subscriptions = first["subscriptions"]
    assert (subscriptions["total"], len(subscriptions["shown"])) == (25, 20)
