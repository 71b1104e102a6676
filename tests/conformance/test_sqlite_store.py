from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ensync.scopes import background_tasks
from ensync.server.apps import AppRegistry
from ensync.server.retention import Retention
from ensync.server.sqlite import SqliteStore
from ensync.server.sqlite_apps import SqliteAppStorage
from ensync.server.sqlite_file import SqliteFile, Transaction
from ensync.server.sqlite_tables import DueEvent
from ensync.server.store import (
    EventState,
    Lane,
    Lease,
    Settled,
    Store,
    StoredEvent,
    StoreFailedError,
    StoreFullError,
)
from tests.conformance.store_contract import (
    BILLING,
    LOTS,
    StoreContract,
    StoreHarness,
    new_event,
    payloads,
    take_all,
)

pytestmark = pytest.mark.anyio

DEFAULT = Retention()


class SqliteHarness(StoreHarness):
    def __init__(self, path: Path, retention: Retention = DEFAULT) -> None:
        self.now_ms = 1_700_000_000_000
        self._path = path
        self._retention = retention
        self._running = AsyncExitStack()

    async def open(self) -> None:
        self.file = SqliteFile(self._path)
        self.store = self.sqlite = SqliteStore(
            self.file, retention=self._retention, now_ms=lambda: self.now_ms
        )
        self._running.push_async_callback(self.store.close)
        self.tasks = await self._running.enter_async_context(background_tasks())
        self.tasks.start_soon(self.store.run)

    async def close(self) -> None:
        await self._running.aclose()

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    async def advance(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        await self.sqlite.catch_up()

    async def settle_down(self) -> None:
        await super().settle_down()
        await self.sqlite.flush()
        await super().settle_down()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SqliteHarness]:
    harness = SqliteHarness(tmp_path / "events.db")
    await harness.open()
    yield harness
    await harness.close()


class TestSqliteStore(StoreContract):
    pass


@asynccontextmanager
async def opened(path: Path, retention: Retention) -> AsyncIterator[SqliteHarness]:
    harness = SqliteHarness(path, retention)
    await harness.open()
    try:
        yield harness
    finally:
        await harness.close()


async def take_and_ack(harness: SqliteHarness, max_events: int = 1000) -> None:
    async with anyio.create_task_group() as tasks:
        for lease in await harness.take(max_events):
            tasks.start_soon(harness.store.ack, lease)


async def kept(harness: SqliteHarness) -> list[str]:
    await harness.sqlite.catch_up()
    return [found.stored.event.payload for found in await harness.store.browse(BILLING)]


# Group commit


async def test_what_is_asked_for_together_is_committed_together(harness: SqliteHarness) -> None:
    commits: list[str] = []
    harness.file.connection.set_trace_callback(
        lambda statement: commits.append(statement) if statement == "COMMIT" else None
    )
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(harness.append, f"e{number}")
    assert 1 <= len(commits) <= 3


async def test_one_bad_event_does_not_spoil_the_others(harness: SqliteHarness) -> None:
    results: list[str] = []

    async def append(payload: str) -> None:
        try:
            results.append((await harness.append(payload)).event.payload)
        except UnicodeEncodeError:
            results.append("refused")

    async with anyio.create_task_group() as tasks:
        for payload in ("a", "\ud800", "b"):
            tasks.start_soon(append, payload)
    assert sorted(results) == ["a", "b", "refused"]
    assert sorted(await kept(harness)) == ["a", "b"]


async def test_an_app_may_be_saved_at_any_moment(harness: SqliteHarness) -> None:
    """Also between an event's statements and their commit."""
    registry = AppRegistry(SqliteAppStorage(harness.file))
    stored: list[StoredEvent] = []

    async def append(number: int) -> None:
        stored.append(await harness.append(f"e{number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(append, number)
            for _ in range(number % 4):
                await anyio.lowlevel.checkpoint()
            registry.create(f"app {number}")
    await harness.reopen()
    found = await harness.store.browse(BILLING)
    assert {each.stored.idem for each in found} == {each.idem for each in stored}
    assert len(SqliteAppStorage(harness.file).load()) == 20


# Failing


def fill_disk(harness: SqliteHarness) -> None:
    # No more pages than there are.
    harness.file.connection.execute("PRAGMA max_page_count = 1")


def make_room(harness: SqliteHarness) -> None:
    harness.file.connection.execute("PRAGMA max_page_count = 1000000")


async def test_a_full_disk_refuses_events_and_loses_none(harness: SqliteHarness) -> None:
    stored = await harness.append_many(3)
    fill_disk(harness)
    with pytest.raises(StoreFullError, match="disk is full"):
        await harness.append("x" * 100_000)
    make_room(harness)
    stored.append(await harness.append("room again"))
    await harness.reopen()
    assert [lease.stored for lease in await harness.take()] == stored


async def test_what_can_not_be_settled_stays_in_hand(
    harness: SqliteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.append()
    [lease] = await harness.take()
    with failing_commits(monkeypatch):
        with pytest.raises(StoreFailedError, match="can't use its data file"):
            await harness.store.ack(lease)
        with pytest.raises(StoreFailedError):
            await harness.store.defer(lease, 5_000)
    assert await harness.is_empty()
    assert await harness.store.ack(lease) is Settled.DONE


SETTLING: dict[str, Callable[[Store, Lease], Awaitable[Settled | int | None]]] = {
    "ack": lambda store, lease: store.ack(lease),
    "discard": lambda store, lease: store.discard(lease, "unwanted"),
    "defer": lambda store, lease: store.defer(lease, 5_000),
    "give back": lambda store, lease: store.defer(lease, 0),
}


@pytest.mark.parametrize("second", ["ack", "discard", "defer"])
@pytest.mark.parametrize("first", ["ack", "discard", "defer"])
async def test_what_two_could_not_settle_at_once_stays_in_hand(
    harness: SqliteHarness, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    await harness.append()
    [lease] = await harness.take()
    with failing_commits(monkeypatch):
        async with anyio.create_task_group() as tasks:
            for name in (first, second):
                tasks.start_soon(expect_failure, SETTLING[name], harness.store, lease)
    assert await harness.is_empty()
    assert await harness.store.ack(lease) is Settled.DONE


@pytest.mark.parametrize(
    ("second", "answer"),
    [("ack", Settled.ALREADY), ("discard", Settled.ALREADY), ("defer", None), ("give back", None)],
)
async def test_who_settles_second_is_told_what_the_first_has_done(
    harness: SqliteHarness, second: str, answer: Settled | None
) -> None:
    await harness.append()
    [lease] = await harness.take()
    answers: list[Settled | int | None] = []

    async def settle(name: str) -> None:
        answers.append(await SETTLING[name](harness.store, lease))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settle, "ack")
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(settle, second)
    assert sorted(answers, key=repr) == sorted([Settled.DONE, answer], key=repr)
    assert await harness.is_empty()


async def test_what_was_given_back_while_it_could_not_be_settled_waits(
    harness: SqliteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.append()
    [lease] = await harness.take()
    asked = anyio.Event()

    async def ack() -> None:
        asked.set()
        await harness.store.ack(lease)

    with failing_commits(monkeypatch):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(expect_failure, ack)
            await asked.wait()
            await harness.store.release([lease])
    assert payloads(await harness.take()) == ["e"]


async def test_a_deferred_event_that_can_not_be_given_back_stays_deferred(
    harness: SqliteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await harness.append()
    [lease] = await harness.take()
    await harness.store.defer(lease, 5_000)
    claimed = await harness.store.claim(stored.idem)
    assert claimed is not None
    with failing_commits(monkeypatch), pytest.raises(StoreFailedError):
        await harness.store.release([claimed])
    assert await harness.is_empty()
    await harness.advance(6_000)
    assert payloads(await harness.take()) == ["e"]


async def test_an_event_that_can_not_be_dropped_is_not_handed_out(
    harness: SqliteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.store.append(new_event("short", ttl_ms=5_000))
    harness.now_ms += 6_000
    with failing_commits(monkeypatch):
        assert await harness.is_empty()
    assert harness.store.expired == 0
    await harness.advance(0)
    assert harness.store.expired == 1


async def test_a_damaged_file_is_told_to_who_takes(harness: SqliteHarness) -> None:
    await harness.append_many(3)
    harness.file.connection.execute("ALTER TABLE events RENAME TO lost")
    lane = await harness.store.lane(BILLING)
    with pytest.raises(StoreFailedError):
        await lane.take(1, LOTS)
    harness.file.connection.execute("ALTER TABLE lost RENAME TO events")
    assert len(await lane.take(3, LOTS)) == 3
    await lane.close()


async def test_nothing_hangs_when_the_store_has_stopped(harness: SqliteHarness) -> None:
    async with background_tasks() as tasks:
        tasks.start_soon(expect_failure, harness.append)
    await harness.close()
    with pytest.raises(StoreFailedError, match="stopping"):
        await harness.append()


@contextmanager
def failing_commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    really_commit = Transaction.commit

    def commit(transaction: Transaction) -> None:
        if not transaction.changes_something:
            return really_commit(transaction)
        transaction.roll_back()
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit", commit)
        yield


async def expect_failure(function: Callable[..., Awaitable[object]], *args: object) -> None:
    with pytest.raises(StoreFailedError):
        await function(*args)


# Reading ahead


async def test_a_long_queue_is_not_held_in_memory(harness: SqliteHarness) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(3_000):
            tasks.start_soon(harness.append, f"e{number}")
    await harness.reopen()
    lane = await harness.store.lane(BILLING)
    taken: list[Lease] = []
    while len(taken) < 3_000:
        leases = await lane.take(64, LOTS)
        taken += leases
        for lease in leases:
            harness.tasks.start_soon(harness.store.ack, lease)
        assert harness.sqlite.events_in_memory < 1_000
    blocks = [lease.stored.block for lease in taken]
    assert blocks == sorted(set(blocks))
    await lane.close()


async def test_large_events_are_read_a_few_at_a_time(harness: SqliteHarness) -> None:
    for number in range(20):
        await harness.append(f"{number}" + "x" * 1_000_000)
    lane = await harness.store.lane(BILLING)
    assert len(await lane.take(1, LOTS)) == 1
    assert harness.sqlite.events_in_memory <= 5
    assert len(await take_all(lane, 19)) == 19
    await lane.close()


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1030])
async def test_what_is_published_meanwhile_comes_after_what_waits(
    harness: SqliteHarness, count: int
) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(harness.append, "old")
    lane = await harness.store.lane(BILLING)
    leases = await lane.take(10, LOTS) if count else []
    await harness.append_many(5)
    leases += await take_all(lane, count + 5 - len(leases))
    assert payloads(leases) == ["old"] * count + [f"e{number}" for number in range(5)]
    await lane.close()


# Forgetting


async def test_only_the_latest_settled_events_are_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db", Retention(events=3)) as harness:
        stored = await harness.append_many(5)
        for _ in range(5):
            await take_and_ack(harness, 1)
        await harness.append("waiting")
        assert await kept(harness) == ["e2", "e3", "e4", "waiting"]
        assert await harness.store.find(stored[0].idem) is None
        await harness.reopen()
        assert await kept(harness) == ["e2", "e3", "e4", "waiting"]


async def test_settled_events_are_kept_up_to_a_size(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db", Retention(bytes=20_000)) as harness:
        for _ in range(5):
            await harness.append("x" * 9_000)
        await take_and_ack(harness)
        assert len(await kept(harness)) == 2


async def test_settled_events_are_kept_up_to_an_age(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db", Retention(age=60)) as harness:
        await harness.append()
        await harness.advance(100_000)
        await take_and_ack(harness)
        await harness.advance(59_000)
        assert await kept(harness) == ["e"]
        await harness.advance(2_000)
        assert await kept(harness) == []


async def test_a_smaller_retention_applies_to_what_is_there(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db", Retention()) as harness:
        await harness.append_many(30)
        await take_and_ack(harness)
    async with opened(tmp_path / "events.db", Retention(events=2)) as harness:
        assert len(await kept(harness)) == 2


async def test_an_attempt_is_forgotten_with_its_event(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db", Retention(events=0)) as harness:
        first = await harness.store.append(new_event(), "attempt")
        await take_and_ack(harness)
        assert await kept(harness) == []
        again = await harness.store.append(new_event(), "attempt")
        assert again.idem != first.idem
        assert again.block > first.block


async def test_a_repeated_attempt_does_not_bring_a_settled_event_back(
    harness: SqliteHarness,
) -> None:
    first = await harness.store.append(new_event(), "attempt")
    await take_and_ack(harness)
    lane = await harness.store.lane(BILLING)
    assert await harness.is_empty()
    assert await harness.store.append(new_event(), "attempt") == first
    assert await harness.is_empty()
    await lane.close()


# Restarting


async def test_what_expired_meanwhile_is_not_handed_out(harness: SqliteHarness) -> None:
    await harness.store.append(new_event("short", ttl_ms=5_000))
    await harness.append("long")
    harness.now_ms += 6_000
    await harness.reopen()
    assert payloads(await harness.take()) == ["long"]


async def test_what_fell_due_meanwhile_comes_back(harness: SqliteHarness) -> None:
    await harness.append_many(2)
    [first, _] = await harness.take()
    await harness.store.defer(first, 5_000)
    harness.now_ms += 6_000
    await harness.reopen()
    await harness.advance(0)
    assert payloads(await harness.take()) == ["e0", "e1"]


async def test_what_is_not_to_persist_is_not_in_the_file(harness: SqliteHarness) -> None:
    await harness.store.append(new_event("a-secret-payload", persist=False))
    await take_and_ack(harness)
    await harness.reopen()
    [found] = await harness.store.browse(BILLING)
    assert found.state is EventState.ACKNOWLEDGED
    assert found.stored.event.payload == ""


async def test_blocks_are_never_used_again(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db", Retention(events=0)) as harness:
        last = (await harness.append_many(3))[-1]
        await take_and_ack(harness)
        assert await kept(harness) == []
        await harness.reopen()
        assert (await harness.append()).block == last.block + 1


@contextmanager
def failing(tables: Any, *names: str) -> Iterator[None]:
    """Has statements fail, as a disk does that can't be read."""

    def fail(*_arguments: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(tables, name, fail)
        yield


async def test_deferred_events_come_back_after_a_moment_of_failure(harness: SqliteHarness) -> None:
    await harness.append()
    [lease] = await harness.take()
    await harness.store.defer(lease, 1000)
    with failing(harness.sqlite._tables, "bring_back_due", "next_due_ms"):
        harness.now_ms += 1_000
        harness.sqlite._bring_back_due()
        await harness.settle_down()
    harness.now_ms += 10_000
    lane = await harness.store.lane(BILLING)
    with anyio.fail_after(10):
        assert payloads(await lane.take(1, LOTS)) == ["e"]


async def test_a_full_disk_does_not_keep_the_engine_busy_with_what_is_due(
    harness: SqliteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.append()
    [lease] = await harness.take()
    await harness.store.defer(lease, 1000)
    calls: list[int] = []
    bring_back_due = harness.sqlite._tables.bring_back_due

    def counted(now_ms: int) -> list[DueEvent]:
        calls.append(now_ms)
        return bring_back_due(now_ms)

    monkeypatch.setattr(harness.sqlite._tables, "bring_back_due", counted)
    with failing_commits(monkeypatch):
        harness.now_ms += 1_000
        harness.sqlite._bring_back_due()
        for _ in range(100):
            await harness.sqlite.flush()
    assert len(calls) < 10


@pytest.mark.parametrize("count", [257, 300])
async def test_a_failure_that_is_over_keeps_nobody_waiting(
    harness: SqliteHarness, count: int
) -> None:
    one, other = await harness.store.lane(BILLING), await harness.store.lane(BILLING)
    await harness.append_many(count)
    taken = await one.take(190, LOTS)  # of the first page, which is 256
    with failing(harness.sqlite._tables, "page"):
        taken += await one.take(66, LOTS)  # has more read, which fails
        await harness.settle_down()
    assert len(taken) == 256

    async def take(lane: Lane) -> None:
        while len(taken) < count:
            with anyio.move_on_after(0.1):  # the other may have taken all there is
                taken.extend(await lane.take(22, LOTS))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, one)
            tasks.start_soon(take, other)
    assert len(taken) == count


async def test_an_event_that_expires_as_the_last_lane_is_closed(
    harness: SqliteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await harness.store.lane(BILLING)
    written = anyio.Event()

    async def close() -> None:
        await written.wait()
        await lane.close()

    was_written = harness.file.was_written

    def late() -> None:
        was_written()
        harness.now_ms += 100  # the commit took so long
        written.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane.take, 1, LOTS)
        tasks.start_soon(close)
        await harness.settle_down()
        monkeypatch.setattr(harness.file, "was_written", late)
        await harness.store.append(new_event("e", ttl_ms=5))
        monkeypatch.undo()
        await harness.settle_down()
        tasks.cancel_scope.cancel()
    await harness.append("f")
    assert payloads(await harness.take()) == ["f"]
