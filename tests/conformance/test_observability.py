"""Looking on without side effects: what an import changes, what memory does, what is counted."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import anyio
import pytest
from h2.connection import H2Connection

import ensync
from ensync import deadlines
from ensync.server.local import LocalEngine
from ensync.server.memory import MemoryStore
from ensync.server.store import NewEvent, StoredEvent
from ensync.testing import Faults
from tests.conformance.harness import (
    PATIENCE,
    Keys,
    Target,
    address,
    publish_all,
    reconnected,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

IMPORT_CHANGES_NOTHING = """
import asyncio, logging, signal, sys, threading, warnings

def state():
    return {
        "root level": logging.getLogger().level,
        "root handlers": list(logging.getLogger().handlers),
        "disabled": logging.root.manager.disable,
        "logger class": logging.getLoggerClass(),
        "record factory": logging.getLogRecordFactory(),
        "warnings captured": logging._warnings_showwarning is not None,
        "warning filters": list(warnings.filters),
        "show warning": warnings.showwarning,
        "policy": getattr(asyncio.events, "_event_loop_policy", None),
        "running loop": asyncio.get_running_loop,
        "current task": asyncio.current_task,
        "new loop": asyncio.new_event_loop,
        "excepthook": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "interrupts": signal.getsignal(signal.SIGINT),
        "threads": threading.active_count(),
        "hooks": sys.get_asyncgen_hooks(),
        "path": list(sys.path),
    }

def loggers():
    known = logging.root.manager.loggerDict.values()
    return [logger for logger in known if isinstance(logger, logging.Logger)]

before = state()
import ensync
from ensync.server.local import LocalEngine
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed
configured = [
    logger.name
    for logger in loggers()
    if logger.name.startswith("ensync") and (logger.handlers or logger.level or logger.disabled)
]
assert not configured, configured
"""

# On asyncio, using it changes no more than importing it does, and needs no trio.
USE_CHANGES_NOTHING = (
    IMPORT_CHANGES_NOTHING
    + """
async def main():
    async with LocalEngine() as engine:
        app = engine.create_app("shop")
        async with ensync.connect(
            engine.url, app_key=app.app_key, app_secret_key=app.secret_key
        ) as client:
            await client.publish("orders", [client.app_id], 1)
            async with client.subscribe("orders") as subscription:
                async for event in subscription:
                    break

asyncio.run(main())
after = state()
changed = [name for name in before if before[name] != after[name] and name != "policy"]
assert not changed, changed
assert type(asyncio.events._event_loop_policy).__module__.startswith("asyncio")
assert not {"trio", "trio_asyncio"} & sys.modules.keys()
"""
)


@pytest.mark.parametrize(
    "program", [IMPORT_CHANGES_NOTHING, USE_CHANGES_NOTHING], ids=["import", "use"]
)
def test_the_process_is_left_as_it_was(program: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=25)


# Memory

ROUNDS, PER_ROUND = 3, 200
# trio keeps thousands of cancelled deadlines before it sweeps: the client is the same there.
ON_ASYNCIO = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"loop_factory": asyncio.SelectorEventLoop})],
    ids=["asyncio"],
    scope="module",
    indirect=True,
)


class ForgetfulStore(MemoryStore):
    """Says that it has stored an event. What grows is then the client's."""

    async def append(self, event: NewEvent, dedupe: str | None = None) -> StoredEvent:
        self._next_block += 1
        return StoredEvent(str(self._next_block), self._next_block, 0, event)


@pytest.fixture
async def client_of_forgetful_engine(transport: str) -> AsyncIterator[ensync.EnSyncClient]:
    async with LocalEngine(store=ForgetfulStore()) as engine:
        keys = Keys.of(engine.create_app("shop"))
        async with Target(address(engine, transport), keys, keys).connect() as client:
            yield client


@pytest.fixture
def bounds_are_reached_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for a while, up to a bound, is no leak: it is kept for less here."""
    monkeypatch.setattr(H2Connection, "MAX_CLOSED_STREAMS", 16)  # of the local engine
    monkeypatch.setattr(deadlines, "_PER_SECOND", 1)


async def growth_by_event(use: Callable[[int], Awaitable[None]]) -> float:
    """How many objects, of whatever type, each event leaves behind in the best of rounds."""
    allocated: list[int] = []
    for number in range(ROUNDS + 1):
        await use(number)
        gc.collect()
        allocated.append(sys.getallocatedblocks())
    return min(after - before for before, after in pairwise(allocated)) / PER_ROUND


async def publish_one_by_one(client: ensync.EnSyncClient) -> None:
    for number in range(PER_ROUND):
        await client.publish("orders", [client.app_id], {"number": number}, {"source": "test"})


async def publish_many(client: ensync.EnSyncClient) -> None:
    events = (ensync.OutgoingEvent("orders", [client.app_id], n) for n in range(PER_ROUND))
    async with client.publish_many(events) as outcomes:
        async for outcome in outcomes:
            outcome.unwrap()


@ON_ASYNCIO
@pytest.mark.usefixtures("bounds_are_reached_at_once")
@pytest.mark.parametrize("publish", [publish_one_by_one, publish_many])
async def test_publishing_keeps_memory_flat(
    client_of_forgetful_engine: ensync.EnSyncClient,
    publish: Callable[[ensync.EnSyncClient], Awaitable[None]],
) -> None:
    async def use(_round: int) -> None:
        await publish(client_of_forgetful_engine)

    assert await growth_by_event(use) < 0.5


@ON_ASYNCIO
@pytest.mark.usefixtures("bounds_are_reached_at_once")
async def test_subscribing_to_name_after_name_keeps_memory_flat(
    client_of_forgetful_engine: ensync.EnSyncClient,
) -> None:
    async def use(of_round: int) -> None:
        for number in range(PER_ROUND):
            async with client_of_forgetful_engine.subscribe(f"orders/{of_round}/{number}"):
                pass

    assert await growth_by_event(use) < 0.8


# Statistics


async def test_statistics_agree_with_what_the_engine_counts(
    client: ensync.EnSyncClient, engine: LocalEngine, faults: Faults, event_name: str
) -> None:
    await publish_all(client, event_name, range(12))
    faults.duplicate_delivery(count=2)
    faults.refuse_next("acknowledge", "not now")
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name, auto_ack=False) as subscription:
            events = await take(subscription, 12)
            with pytest.raises(ensync.EnSyncSubscriptionError, match="not now"):
                await events[0].ack()
            for event in events[1:4]:
                await event.ack()
            for event in events[4:6]:
                await event.discard()
            for event in events[6:9]:
                await event.defer(delay=3600)
            ours, theirs = subscription.statistics(), engine.statistics()
    assert (ours.acknowledged, ours.discarded, ours.deferred) == (3, 2, 3)
    assert (theirs.acknowledged, theirs.discarded, theirs.deferred) == (3, 2, 3)
    assert (ours.received, ours.duplicates) == (theirs.delivered + 2, 2) == (14, 2)
    assert ours.in_hand == theirs.in_hand == 4
    assert (ours.buffered, ours.unconfirmed, ours.invalid, ours.failed_handlers) == (0, 0, 0, 0)


async def test_statistics_after_a_lost_link(
    client: ensync.EnSyncClient, faults: Faults, event_name: str
) -> None:
    """What was in hand is delivered again, and is not shown again."""
    await publish_all(client, event_name, range(5))
    with anyio.fail_after(PATIENCE):
        async with client.subscribe(event_name, auto_ack=False) as subscription:
            events = await take(subscription, 5)
            faults.abort_connections()
            await reconnected(client, client.client_id)
            # Events come in order: when a new one has come, those have.
            await publish_all(client, event_name, ["new"])
            for event in [*events, await take_one(subscription)]:
                await event.ack()
            statistics = subscription.statistics()
    assert (statistics.received, statistics.duplicates) == (11, 5)
    assert (statistics.acknowledged, statistics.in_hand, statistics.buffered) == (6, 0, 0)
