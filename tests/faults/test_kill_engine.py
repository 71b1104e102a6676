"""An engine that is killed under load, again and again, keeps every word it has given.

`ensync serve` is killed, and engines in programs, by turns on one file: each has to go on
with what another has left.

ENSYNC_KILLS says how many times, ENSYNC_KILLS_SEED which moments.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

import ensync
from ensync.server.apps import App, AppRegistry
from ensync.server.sqlite_apps import open_app_storage
from ensync.server.sqlite_file import SqliteFile
from ensync.server.sqlite_tables import Tables
from ensync.server.store import EventState
from tests.faults import killable_engine
from tests.unit.cli.command import COMMAND, environment
from tests.unit.cli.served import ANY_PORT

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("ENSYNC_KILLS", "12"))
SEED = int(os.environ.get("ENSYNC_KILLS_SEED", "1"))

KINDS = ("command", "asyncio", "trio")

EVENT_NAME = "orders/paid"
PUBLISHERS = 8
SETTLERS = 8
AN_HOUR = 3600.0  # the deferred ones do not come back during the test
MOST_ANSWERS = 400
START_LIMIT = 20.0
LONGEST_LINE = 4096
ROUND_LIMIT = 30.0

Lost = ensync.EnSyncConnectionError, ensync.EnSyncPublishError, ensync.EnSyncGenericError


class Ledger:
    """What the engine has answered with success."""

    def __init__(self) -> None:
        self.published: set[str] = set()
        self.states: dict[str, EventState] = {}
        self.deferred: set[str] = set()
        self.asked: set[str] = set()
        self.broken_words: list[str] = []
        self.answers = 0
        self._wanted = 0
        self._enough = anyio.Event()

    def expect_answers(self, count: int) -> anyio.Event:
        """Returns what is set after so many more answers."""
        self._wanted = self.answers + count
        self._enough = anyio.Event()
        return self._enough

    def answered(self) -> None:
        self.answers += 1
        if self.answers >= self._wanted:
            self._enough.set()

    def receive(self, idem: str) -> None:
        if idem in self.states or idem in self.deferred:
            self.broken_words.append(f"handed out again: {idem}")

    @property
    def waiting(self) -> set[str]:
        """What nobody has asked to settle. What was asked and not answered may be settled."""
        return self.published - self.asked


def command_of(kind: str, data: Path) -> list[str]:
    if kind == "command":
        return [*COMMAND, "serve", *ANY_PORT, "--json", "--data", str(data)]
    return [sys.executable, killable_engine.__file__, str(data), kind]


@asynccontextmanager
async def engine_process(data: Path, kind: str) -> AsyncIterator[tuple[anyio.abc.Process, str]]:
    async with await anyio.open_process(
        command_of(kind, data), stderr=None, env=environment()
    ) as process:
        assert process.stdout is not None
        output = BufferedByteReceiveStream(process.stdout)
        with anyio.fail_after(START_LIMIT):
            told = json.loads(await output.receive_until(b"\n", LONGEST_LINE))
        try:
            yield process, told["url"]
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def connected(url: str, app: App) -> AsyncIterator[ensync.EnSyncClient]:
    reconnect = ensync.Reconnect(initial=0.01, maximum=0.01, max_attempts=1)
    async with ensync.connect(
        url, app_key=app.app_key, app_secret_key=app.secret_key, reconnect=reconnect
    ) as client:
        yield client


async def publish(client: ensync.EnSyncClient, ledger: Ledger) -> None:
    while True:
        receipt = await client.publish(EVENT_NAME, [client.app_id], {"after": ledger.answers})
        ledger.published.add(receipt.event_id)
        ledger.answered()


async def settle(
    events: AsyncIterator[ensync.Event[object]], ledger: Ledger, rng: random.Random
) -> None:
    async for event in events:
        ledger.receive(event.idem)
        ledger.asked.add(event.idem)
        dice = rng.random()
        if dice < 0.05:
            await event.defer(delay=AN_HOUR)
            ledger.deferred.add(event.idem)
        elif dice < 0.15:
            await event.discard()
            ledger.states[event.idem] = EventState.DISCARDED
        else:
            await event.ack()
            ledger.states[event.idem] = EventState.ACKNOWLEDGED
        ledger.answered()


async def until_lost(function: Callable[..., Awaitable[None]], *args: object) -> None:
    try:
        await function(*args)
    except Lost:
        return


async def load(url: str, app: App, ledger: Ledger, rng: random.Random) -> None:
    """Publishes and settles for as long as the engine lives."""
    async with (
        connected(url, app) as client,
        client.subscribe(EVENT_NAME, auto_ack=False) as subscription,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(PUBLISHERS):
            tasks.start_soon(until_lost, publish, client, ledger)
        for _ in range(SETTLERS):
            tasks.start_soon(until_lost, settle, aiter(subscription), ledger, rng)


async def run_and_kill(kind: str, data: Path, app: App, ledger: Ledger, rng: random.Random) -> None:
    enough = ledger.expect_answers(rng.randint(0, MOST_ANSWERS))
    async with engine_process(data, kind) as (process, url):
        with anyio.fail_after(ROUND_LIMIT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(until_lost, load, url, app, ledger, rng)
                await enough.wait()
                # Not only at moments when an answer has just been written.
                await anyio.sleep(rng.random() * 0.01)
                process.kill()


def check_file(data: Path, ledger: Ledger) -> None:
    """The file opens, and holds what was answered."""
    with closing(SqliteFile(data)) as file:
        tables = Tables(file.connection, lambda: "")
        for idem in ledger.published:
            found = tables.find(idem)
            if found is None:
                ledger.broken_words.append(f"lost: {idem}")
            elif found.state is not ledger.states.get(idem, found.state):
                ledger.broken_words.append(f"settled, and now {found.state}: {idem}")
        for idem in ledger.deferred:
            event = tables.open_event(idem)
            if event is None or not event.due_ms:
                ledger.broken_words.append(f"deferred, and not any more: {idem}")


async def receive_all(data: Path, app: App, ledger: Ledger) -> None:
    """Every event that was not settled is handed out by an engine that goes on."""
    missing = set(ledger.waiting)
    async with (
        engine_process(data, "command") as (_, url),
        connected(url, app) as client,
        client.subscribe(EVENT_NAME, auto_ack=False) as subscription,
    ):
        with anyio.move_on_after(ROUND_LIMIT):
            async for event in subscription:
                ledger.receive(event.idem)
                missing.discard(event.idem)
                await event.ack()
                if not missing:
                    return
    ledger.broken_words += [f"never handed out: {idem}" for idem in missing]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.timeout(60 + 15 * KILLS)
async def test_nothing_answered_is_lost_by_kills(tmp_path: Path) -> None:
    data = tmp_path / "events.db"
    with open_app_storage(data) as storage:
        app = AppRegistry(storage).create("app")
    rng = random.Random(SEED)
    ledger = Ledger()
    for kind in itertools.islice(itertools.cycle(KINDS), KILLS):
        await run_and_kill(kind, data, app, ledger, rng)
        check_file(data, ledger)
        assert not ledger.broken_words
    print(f"{KILLS} kills, {ledger.answers} answers, {len(ledger.waiting)} waiting")
    await receive_all(data, app, ledger)
    assert not ledger.broken_words
    assert ledger.answers > KILLS, "there was hardly any load"
