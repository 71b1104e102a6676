"""``python -m benchmarks.million``: a data file of a million events against an empty one.

Both engines are ``ensync serve --data``, and are measured in turns through the gRPC door:
restart, memory, publishing, replaying, and consuming. The million is put into its file
directly, as the engine would do it: through the door it would take many minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anyio

import ensync
from benchmarks.clients.payloads import make_payloads
from benchmarks.machine import describe_machine
from benchmarks.served import EVENT_NAME, MIB, ServedEngine, first_publish
from benchmarks.showing import show
from benchmarks.tables import Table
from ensync.crypto import seal
from ensync.server.apps import App, AppRegistry
from ensync.server.sqlite_apps import open_app_storage
from ensync.server.sqlite_file import SqliteFile
from ensync.server.sqlite_tables import Tables
from ensync.server.store import EventState, NewEvent, QueueKey

SIZE = 250  # bytes of each payload
SETTLED = 50_000  # of the million: half of what is kept, so that none is forgotten meanwhile
BATCH = 20_000
AT_ONCE = 64


class Figure(NamedTuple):
    """Something that is measured."""

    title: str
    unit: str
    digits: int
    measure: Callable[[Subject], Awaitable[float]]


class Subject:
    """A data file, and the engine that serves it now.

    Attributes:
        processor: The engine's processor time for what was measured last: in seconds for a
            start, in microseconds for each operation.
    """

    def __init__(self, data: Path, operations: int) -> None:
        with open_app_storage(data) as storage:
            self.app: App = AppRegistry(storage).create("benchmark")
        self.data = data
        self.operations = operations
        self.idems: list[str] = []
        self.processor = 0.0
        self.engine: ServedEngine | None = None

    def fill(self, count: int) -> None:
        """Puts events into the file, some of them settled; it is closed then."""
        with closing(SqliteFile(self.data)) as file:
            tables = Tables(file.connection, _idems(count).__next__)
            queue = QueueKey(self.app.app_id, EVENT_NAME)
            payloads = [
                seal(json.dumps(payload).encode(), self.app.app_id)
                for payload in make_payloads(SIZE)
            ]
            for start in range(0, count, BATCH):
                transaction = file.begin()
                for number in range(start, min(start + BATCH, count)):
                    payload = payloads[number % len(payloads)]
                    event = NewEvent(queue, self.app.app_id, payload, "{}")
                    stored = tables.insert(event, _now_ms(), None).stored
                    self.idems.append(stored.idem)
                    if number < min(SETTLED, count // 2):
                        tables.settle(stored, EventState.ACKNOWLEDGED, "", _now_ms())
                transaction.commit()

    @property
    def running(self) -> ServedEngine:
        assert self.engine is not None
        return self.engine

    def start(self) -> None:
        self.engine = ServedEngine(self.data, self.app)

    def end(self, *, kill: bool = False) -> None:
        if self.engine is not None:
            self.engine.end(kill=kill)
            self.engine = None


def _idems(count: int) -> Iterator[str]:
    chance = random.Random(1)
    return (f"{number:012x}{chance.getrandbits(80):020x}" for number in range(count))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# What is measured


async def restart(subject: Subject) -> float:
    subject.end()
    return await start(subject)


async def restart_after_kill(subject: Subject) -> float:
    subject.end(kill=True)
    return await start(subject)


async def start(subject: Subject) -> float:
    subject.start()
    started = await first_publish(subject.running)
    subject.processor = started.processor
    return started.first_publish


async def processor(subject: Subject) -> float:
    return subject.processor


async def memory(subject: Subject) -> float:
    return subject.running.resident_mib()


@contextmanager
def timed(subject: Subject) -> Iterator[Rate]:
    """Measures the operations that are done in the block."""
    rate = Rate()
    processor = subject.running.processor_seconds()
    before = time.perf_counter()
    yield rate
    rate.per_second = subject.operations / (time.perf_counter() - before)
    used = subject.running.processor_seconds() - processor
    subject.processor = used / subject.operations * 1e6


class Rate:
    """How fast it was, once that is known."""

    per_second = 0.0


async def publishing(subject: Subject) -> float:
    payloads = make_payloads(SIZE)
    async with subject.running.connect() as client:
        events = (
            ensync.OutgoingEvent(EVENT_NAME, [client.app_id], payloads[number % len(payloads)])
            for number in range(subject.operations)
        )
        with timed(subject) as rate:
            async with client.publish_many(events, max_in_flight=AT_ONCE) as outcomes:
                async for outcome in outcomes:
                    subject.idems.append(outcome.unwrap().event_id)
    return rate.per_second


async def replaying(subject: Subject) -> float:
    chosen = iter(random.Random(2).choices(subject.idems, k=subject.operations))
    async with (
        subject.running.connect() as client,
        client.subscribe(EVENT_NAME, auto_ack=False) as subscription,
    ):
        await subscription.pause()

        async def replay() -> None:
            for idem in chosen:
                assert (await subscription.replay(idem)).idem == idem

        with timed(subject) as rate:
            async with anyio.create_task_group() as tasks:
                for _ in range(AT_ONCE):
                    tasks.start_soon(replay)
    return rate.per_second


async def consuming(subject: Subject) -> float:
    count = 0
    async with subject.running.connect() as client:
        with timed(subject) as rate:
            async with client.subscribe(EVENT_NAME) as subscription:
                async for _ in subscription:
                    count += 1
                    if count == subject.operations:
                        break
    return rate.per_second


FIGURES = (
    Figure("restart to first accepted publish", "s", 3, restart),
    Figure("  the engine's processor time", "s", 2, processor),
    Figure("the same after kill -9", "s", 3, restart_after_kill),
    Figure("  the engine's processor time", "s", 2, processor),
    Figure("memory after the start", "MiB", 1, memory),
    Figure("publish", "events/s", 0, publishing),
    Figure("  the engine's processor time for each", "µs", 0, processor),
    Figure("replay, at random", "events/s", 0, replaying),
    Figure("  the engine's processor time for each", "µs", 0, processor),
    Figure("receive and acknowledge", "events/s", 0, consuming),
    Figure("  the engine's processor time for each", "µs", 0, processor),
    Figure("memory after all that", "MiB", 1, memory),
)


async def measure(subjects: list[Subject], rounds: int) -> list[list[list[float]]]:
    """By figure and by subject, the numbers of all rounds."""
    numbers: list[list[list[float]]] = [[[] for _ in subjects] for _ in FIGURES]
    for _ in range(rounds):
        for figure, of_figure in zip(FIGURES, numbers, strict=True):
            for subject, of_subject in zip(subjects, of_figure, strict=True):
                of_subject.append(await figure.measure(subject))
    return numbers


def main() -> None:
    options = _parse()
    with TemporaryDirectory() as directory, ExitStack() as stack:
        subjects = [
            Subject(Path(directory, name), options.operations) for name in ("empty.db", "full.db")
        ]
        before = time.perf_counter()
        subjects[1].fill(options.events)
        filled = time.perf_counter() - before
        size = subjects[1].data.stat().st_size / MIB
        for subject in subjects:
            stack.callback(subject.end)
            subject.start()
        numbers = anyio.run(measure, subjects, options.rounds)
    notes = (
        f"{options.events:,} events of {SIZE} bytes, {min(SETTLED, options.events // 2):,} of them "
        f"settled: {size:.0f} MiB, put into the file in {filled:.0f} s",
        f"median of {options.rounds} rounds (lowest to highest), {options.operations:,} operations "
        f"each, one client, {AT_ONCE} at a time; {describe_machine()['processor']}",
    )
    show(_table(options.events, numbers, notes))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="how many are there before")
    parser.add_argument("--operations", type=int, default=5_000, help="of each kind, in a round")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _table(events: int, numbers: list[list[list[float]]], notes: tuple[str, ...]) -> Table:
    rows = tuple(
        (
            f"{figure.title}, {figure.unit}",
            _cell(figure, empty),
            _cell(figure, full),
            _ratio(full, empty),
        )
        for figure, (empty, full) in zip(FIGURES, numbers, strict=True)
    )
    columns = ("", "empty", f"{events:,} events", "ratio")
    return Table("A data file of many events", columns, rows, notes)


def _cell(figure: Figure, numbers: list[float]) -> str:
    middle, lowest, highest = (
        f"{number:,.{figure.digits}f}" for number in (median(numbers), min(numbers), max(numbers))
    )
    return f"{middle} ({lowest} to {highest})"


def _ratio(numbers: list[float], others: list[float]) -> str:
    return f"{median(numbers) / median(others):.2f}"


if __name__ == "__main__":
    main()
