"""Both doors under fire: ``python -m tests.faults.fuzzing --frames 100000 --seed 1``.

Everything that is thrown follows from the seed, so an attack that has found something
is made again by ``--attack DOOR:NUMBER`` and the same seed.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from ensync.server.grpc import GrpcDoor
from ensync.server.local import LocalEngine
from ensync.server.retention import Retention
from ensync.server.websocket import WebSocketDoor
from tests.faults.bystanders import Bystanders
from tests.faults.fuzz_grpc import GRPC_ATTACKS
from tests.faults.fuzz_line import Line, Prey
from tests.faults.fuzz_websocket import WEBSOCKET_ATTACKS
from tests.unit.server.grpc_client import until

__all__ = ["Report", "fuzz"]

MIB = 1 << 20
ATTACKERS = 3  # at each door
PATIENCE = 60.0  # seconds for one attack, on a busy machine
KEPT = Retention(events=100, bytes=MIB)
# Until so much of all is thrown, what libraries make once and keep is there.
WARM_UP = 0.2

ATTACKS = {"grpc": GRPC_ATTACKS, "websocket": WEBSOCKET_ATTACKS}


@dataclass
class Memory:
    """What the process takes, in bytes: when it was warm, at the most since then, at the end."""

    when_warm: int = 0
    most: int = 0
    in_the_end: int = 0


@dataclass
class Report:
    """What was thrown at the doors, and how they took it."""

    seed: int
    preys: dict[str, Prey]
    bystanders: list[Bystanders]
    memory: Memory = field(default_factory=Memory)
    most: Counter[str] = field(default_factory=Counter[str])
    seconds: float = 0.0

    @property
    def thrown(self) -> int:
        return sum(prey.thrown.total() for prey in self.preys.values())

    def lines(self) -> Iterator[str]:
        memory = self.memory
        yield f"seed {self.seed}: {self.thrown} inputs in {self.seconds:.1f} s"
        yield (
            f"memory: {memory.when_warm / MIB:.0f} MiB when warm, "
            f"{memory.most / MIB:.0f} MiB at the most, {memory.in_the_end / MIB:.0f} MiB in the end"
        )
        yield "at the most: " + _listed(self.most)
        for pair in self.bystanders:
            yield (
                f"bystanders over {pair.transport}: {len(pair.numbers)} events once each and "
                f"acknowledged, the slowest after {pair.slowest * 1000:.0f} ms"
            )
        for name, prey in self.preys.items():
            yield f"{name}: {_listed(prey.thrown)}"
            yield from (f"  {count:7} {answer}" for answer, count in prey.answers.most_common())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


class Doors(NamedTuple):
    """Both doors of an engine."""

    grpc: GrpcDoor
    websocket: WebSocketDoor

    def measure(self, most: Counter[str]) -> None:
        """Notes what the connections take. The limits are the doors' own."""
        limits = self.grpc.limits
        most["connections"] = max(
            most["connections"], len(self.grpc.connections) + len(self.websocket.connections)
        )
        for grpc in self.grpc.connections:
            unsent = grpc._transport.unsent_bytes if grpc._transport else 0
            most["calls on one"] = max(most["calls on one"], grpc.calls)
            most["unsent bytes"] = max(most["unsent bytes"], unsent)
            assert grpc.calls <= 2 * limits.concurrent_streams
            assert unsent <= limits.unsent_bytes + MIB
        for websocket in self.websocket.connections:
            most["unsent bytes"] = max(most["unsent bytes"], websocket.unsent_bytes)
            assert websocket.unsent_bytes <= self.websocket._limits.message_bytes + MIB


class ErrorLog(logging.Handler):
    """What was logged that nobody is to see: internal errors, of whatever library."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(self.format(record))


@contextmanager
def error_log() -> Iterator[ErrorLog]:
    log, root = ErrorLog(), logging.getLogger()
    root.addHandler(log)
    try:
        yield log
    finally:
        root.removeHandler(log)


class Campaign:
    """Attacks on both doors of an engine, for as long as there is something to throw."""

    def __init__(self, engine: LocalEngine, report: Report, errors: ErrorLog) -> None:
        self._engine = engine
        self._report = report
        self._errors = errors
        grpc, websocket = engine._doors
        self.doors = Doors(cast(GrpcDoor, grpc), cast(WebSocketDoor, websocket))
        self._under_way: dict[str, list[Line]] = {}
        self._beats: list[MemoryObjectSendStream[None]] = []

    async def run(self, frames: int) -> None:
        """Throws so many inputs, half of them at each door."""
        async with anyio.create_task_group() as bystanders:
            for pair in self._report.bystanders:
                send, receive = anyio.create_memory_object_stream[None](10_000)
                self._beats.append(send)
                bystanders.start_soon(pair.live, self._engine, receive)
            async with anyio.create_task_group() as attackers:
                for door in ATTACKS:
                    numbers = itertools.count()
                    for _ in range(ATTACKERS):
                        attackers.start_soon(self._attack_all, door, numbers, frames)
            for beat in self._beats:
                beat.close()

    async def make(self, door: str, number: int) -> None:
        """Makes one attack, of those that follow from the seed."""
        lot = random.Random(f"{self._report.seed} {door} {number}")
        attack = lot.choices(list(ATTACKS[door]), list(ATTACKS[door].values()))[0]
        name = f"{door}:{number} ({attack.__name__})"
        lines = self._under_way[name] = list[Line]()
        try:
            with anyio.fail_after(PATIENCE):
                await attack(lot, self._report.preys[door], lines)
            self.doors.measure(self._report.most)
            assert not self._errors.errors, self._errors.errors[0]
        except Exception as error:
            said = _write_down(self._under_way)
            raise AssertionError(
                f"attack {name} of seed {self._report.seed}: all that was said is in {said}"
            ) from error
        del self._under_way[name]

    async def _attack_all(self, door: str, numbers: Iterator[int], frames: int) -> None:
        thrown = self._report.preys[door].thrown
        while thrown.total() < frames // 2:
            await self.make(door, next(numbers))
            for beat in self._beats:
                beat.send_nowait(None)
            self._measure_memory(frames)
            if sum(thrown.values()) % 10 == 0:
                await self._settle_attackers_events()

    def _measure_memory(self, frames: int) -> None:
        memory, taken = self._report.memory, _resident_bytes()
        if self._report.thrown < WARM_UP * frames:
            memory.when_warm = max(memory.when_warm, taken)
        memory.most = max(memory.most, taken)

    async def _settle_attackers_events(self) -> None:
        # What is published and waits is no memory that a door has lost.
        store, app_id = self._engine.broker.store, self._report.preys["grpc"].app.app_id
        for counts in await store.count_queues():
            if counts.queue.app_id == app_id and counts.waiting:
                lane = await store.lane(counts.queue)
                # Another attacker may have taken them meanwhile, and no more may come.
                with anyio.move_on_after(1):
                    for lease in await lane.take(counts.waiting, MIB):
                        await store.discard(lease, "")
                await lane.close()


def _resident_bytes() -> int:
    """0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _write_down(under_way: dict[str, list[Line]]) -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="ensync-fuzz-", delete=False) as file:
        for name, lines in under_way.items():
            for line in lines:
                file.writelines([f"{name}\n", *(f"{said!r}\n" for said in line.said)])
    return Path(file.name)


async def fuzz(frames: int, seed: int, attack: str | None = None) -> Report:
    """Attacks a new engine. The frames are counted over both doors.

    Args:
        frames: How many inputs to throw.
        seed: What they follow from.
        attack: Only this one, such as ``grpc:17``.

    Raises:
        AssertionError: Something was harmed. The message says by which attack.
    """
    async with LocalEngine(retention=KEPT) as engine:
        app = engine.create_app("attacker", send=["*"], receive=["*"])
        stranger = engine.create_app("stranger", send=["allowed"], receive=["allowed"])
        ports = (int(url.rpartition(":")[2]) for url in (engine.url, engine.websocket_url))
        preys = {door: Prey(port, app, stranger) for door, port in zip(ATTACKS, ports, strict=True)}
        report = Report(seed, preys, [Bystanders("grpc"), Bystanders("websocket")])
        with error_log() as errors:
            campaign = Campaign(engine, report, errors)
            begin = time.perf_counter()
            if attack is None:
                await campaign.run(frames)
            else:
                door, _, number = attack.partition(":")
                await campaign.make(door, int(number))
            report.seconds = time.perf_counter() - begin
            await _until_nothing_is_left(engine, campaign.doors)
            report.memory.in_the_end = _resident_bytes()
        assert not errors.errors, errors.errors[0]
    return report


async def _until_nothing_is_left(engine: LocalEngine, doors: Doors) -> None:
    await until(lambda: not doors.grpc.connections and not doors.websocket.connections)
    await until(lambda: not engine.statistics().clients)
    statistics = engine.statistics()
    assert (statistics.subscriptions, statistics.in_hand) == (0, 0)
    assert doors.grpc.large_messages.value == doors.grpc.limits.large_messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000, help="inputs to throw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attack", help="make this one only, such as grpc:17")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    report = anyio.run(fuzz, options.frames, options.seed, options.attack, backend=options.backend)
    print("\n".join(report.lines()))


if __name__ == "__main__":
    main()
