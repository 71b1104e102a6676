"""Publishers and consumers at work while everything fails: python -m tests.faults.soak

At the end the books are compared: what was accepted was handed out, what was settled
was not handed out again, what was rejected is nowhere, and nothing was invented.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import tempfile
import traceback
from collections import Counter
from itertools import product
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.abc

from ensync.server.store import QueueKey
from ensync.testing import FaultProxy
from ensync.transports.grpc_connection import HTTP2_WAYS, Http2
from tests.faults.soak_census import Census, noticing_all
from tests.faults.soak_conditions import Conditions
from tests.faults.soak_engine import LOOKING_INTERVAL, DurableEngine
from tests.faults.soak_ledger import Ledger
from tests.faults.soak_publishers import publish_batches, publish_singly
from tests.faults.soak_readers import drain, listeners, work
from tests.faults.soak_report import Progress, Report, table
from tests.faults.soak_scene import Scene
from tests.faults.soak_weather import bad_engine, bad_network

__all__ = ["Plan", "soak"]

# How long clients may take, once nothing fails any more, to have everything handed out
# and settled; and then to leave.
RECOVERY_LIMIT = 60.0
LEAVE_LIMIT = 30.0
DRAIN_LIMIT = 30.0
HUNG_AFTER = 300.0
LONGER = 5
# The engine's end of a connection ends after the client's.
SETTLE_LIMIT = 10.0
LONGEST_TEXT = 4000

# More than this is a leak, and not a cache that fills up.
MOST_NEW_OBJECTS = 20_000
MOST_NEW_MIB = 64.0


class Plan(NamedTuple):
    """What to do for how long.

    Attributes:
        seconds: How long to work and fail.
        seed: What the dice, and the conditions, depend on.
        rate: How many events to publish in a second.
        gap: How many seconds pass, on average, between two faults of each kind of
            weather: there are two networks, and the engine.
        least: How many events are to be acknowledged while it fails. Where that takes longer,
            it goes on, up to LONGER times as long.
    """

    seconds: float
    seed: int
    backend: str
    transport: str
    http2: Http2 = "auto"
    rate: float = 150.0
    gap: float = 1.0
    least: int = 0

    @property
    def conditions(self) -> Conditions:
        """What the seed chooses."""
        return Conditions.chosen_by(self.seed)

    def __str__(self) -> str:
        way = f"{self.backend}, {self.transport}, http2={self.http2}"
        return f"seed {self.seed}: {way}; {self.conditions}"


class Soak:
    """One run."""

    def __init__(self, plan: Plan, data: Path) -> None:
        self._plan = plan
        self._lot = random.Random(plan.seed)
        self._ledger = Ledger()
        self._engine = DurableEngine(data, self._ledger, **plan.conditions.engine_options)
        self._progress = Progress()
        self.report = Report(str(plan))

    async def run(self) -> Report:
        """Works, recovers, and compares."""
        started = anyio.current_time()
        with noticing_all(self._ledger) as logged:
            async with self._engine:
                scene = self._scene()
                self.report.start = Census.take()
                try:
                    await self._work(scene)
                except Exception:  # noqa: BLE001 - whatever it is, no program expects it
                    self._ledger.violate("foreign error", traceback.format_exc()[-LONGEST_TEXT:])
                self.report.end = await self.report.start.again(SETTLE_LIMIT)
                await self._drain_and_compare(scene)
        self._check_held()
        self._fill_report(scene)
        self.report.logged = dict(logged)
        self.report.seconds = anyio.current_time() - started
        return self.report

    def _scene(self) -> Scene:
        create_app = self._engine.create_app
        shop, billing, till = create_app("shop"), create_app("billing"), create_app("till")
        for app in (shop, billing):
            self._ledger.add_app(app.app_id)
        plan = self._plan
        return Scene(self._ledger, plan.conditions, (shop, billing, till), plan.http2)

    @property
    def _url(self) -> str:
        grpc = self._plan.transport == "grpc"
        return self._engine.url if grpc else self._engine.websocket_url

    def _dice(self) -> random.Random:
        return random.Random(self._lot.random())

    # Working

    async def _work(self, scene: Scene) -> None:
        with anyio.CancelScope() as scope:
            async with (
                FaultProxy(self._url) as one,
                FaultProxy(self._url) as other,
                anyio.create_task_group() as consumers,
            ):
                for listener in listeners(scene, one.url, other.url):
                    consumers.start_soon(work, scene, listener, self._dice())
                await self._publish_in_bad_weather(scene, one, other)
                scope.deadline = anyio.current_time() + RECOVERY_LIMIT
                await self._recover(scene)
                scene.working = False
                scope.deadline = anyio.current_time() + LEAVE_LIMIT
        if scope.cancelled_caught:
            self._ledger.violate("stuck", "clients did not recover, or did not leave, in time")

    async def _publish_in_bad_weather(
        self, scene: Scene, one: FaultProxy, other: FaultProxy
    ) -> None:
        half = self._plan.rate / 2
        async with anyio.create_task_group() as publishers:
            publishers.start_soon(publish_singly, scene, one.url, half, self._dice())
            publishers.start_soon(publish_batches, scene, other.url, half, self._dice())
            async with anyio.create_task_group() as weather:
                weather.start_soon(self._watch, scene)
                weather.start_soon(self._count_when_warm)
                self._start_weather(weather, scene, one, other)
                await self._until_enough()
                weather.cancel_scope.cancel()
            self._progress.done()
            scene.publishing = False
            self._heal(one, other)

    async def _until_enough(self) -> None:
        await anyio.sleep(self._plan.seconds)
        with anyio.move_on_after(self._plan.seconds * (LONGER - 1)):
            while self._ledger.counts["acknowledged"] < self._plan.least:  # noqa: ASYNC110 - books tell nobody
                await anyio.sleep(LOOKING_INTERVAL)

    def _start_weather(
        self, tasks: anyio.abc.TaskGroup, scene: Scene, one: FaultProxy, other: FaultProxy
    ) -> None:
        gap, grpc, counts = self._plan.gap, self._plan.transport == "grpc", scene.faults
        tasks.start_soon(bad_network, one, gap, self._dice(), counts)
        tasks.start_soon(bad_network, other, gap, self._dice(), counts)
        tasks.start_soon(bad_engine, self._engine, gap, grpc, self._dice(), counts)

    def _heal(self, one: FaultProxy, other: FaultProxy) -> None:
        self._engine.faults.heal()
        self._engine.faults.abort_connections()
        for proxy in (one, other):
            proxy.heal()
            proxy.reset()

    async def _recover(self, scene: Scene) -> None:
        """The clients there are have to get everything done, without help."""
        scene.calm = True
        started = anyio.current_time()
        await self._engine.until_all_settled()
        self.report.recovery = anyio.current_time() - started

    async def _watch(self, scene: Scene) -> None:
        started = anyio.current_time()
        while True:
            await anyio.sleep(self._progress.interval)
            passed = anyio.current_time() - started
            self._progress.show(passed, self._plan.seconds, self._figures(scene))

    async def _count_when_warm(self) -> None:
        await anyio.sleep(self._plan.seconds / 5)
        self.report.warm = Census.take()

    def _figures(self, scene: Scene) -> dict[str, int]:
        counts = self._ledger.counts
        return {
            "sent": counts["sent"],
            "accepted": counts["accepted"],
            "handed": counts["handed"],
            "again": counts["redelivered"],
            "faults": self._faults(scene).total(),
            "restarts": self._engine.restarts,
            "violations": self._ledger.broken.total(),
        }

    def _faults(self, scene: Scene) -> Counter[str]:
        calls = Counter({f"calls: {kind}": n for kind, n in self._engine.faults.happened.items()})
        return scene.faults + calls

    # Comparing

    async def _drain_and_compare(self, scene: Scene) -> None:
        with anyio.move_on_after(DRAIN_LIMIT):
            async with anyio.create_task_group() as tasks:
                for app in (scene.shop, scene.billing):
                    tasks.start_soon(drain, scene, app, self._url, scene.names)
                await self._engine.until_all_settled()
                tasks.cancel_scope.cancel()
        for app, name in product((scene.shop, scene.billing), scene.names):
            self._ledger.found(await self._engine.stored(QueueKey(app.app_id, name)))
        self._ledger.compare()

    def _check_held(self) -> None:
        start, warm, end = self.report.start, self.report.warm, self.report.end
        assert start is not None
        assert end is not None
        if (end.tasks, end.files) != (start.tasks, start.files):
            self._ledger.violate("leak", f"tasks or files: {start} at the start, {end} at the end")
        if end.objects - start.objects > MOST_NEW_OBJECTS:
            self._ledger.violate("leak", f"objects: {start} at the start, {end} at the end")
        if warm is not None and end.memory_mib - warm.memory_mib > MOST_NEW_MIB:
            self._ledger.violate("leak", f"memory: {warm} early, {end} at the end")

    def _fill_report(self, scene: Scene) -> None:
        report, ledger = self.report, self._ledger
        report.events = dict(ledger.counts) | {"unknown": ledger.unknown}
        report.faults = dict(sorted(self._faults(scene).items()))
        report.errors, report.error_texts = dict(sorted(scene.errors.items())), scene.error_texts
        report.reconnects, report.restarts = scene.reconnects, self._engine.restarts
        report.slowest_leave = scene.slowest_leave
        report.violations, report.examples = dict(ledger.broken), ledger.examples


async def soak(plan: Plan, data: Path) -> Report:
    """Runs one soak with its events in a file."""
    return await Soak(plan, data).run()


def main() -> None:
    plan, as_json = _arguments()
    print(plan, file=sys.stderr, flush=True)
    faulthandler.dump_traceback_later(plan.seconds + HUNG_AFTER, exit=True)
    with tempfile.TemporaryDirectory(prefix="ensync-soak-") as folder:
        report = anyio.run(soak, plan, Path(folder) / "events.db", backend=plan.backend)
    print(report.to_json() if as_json else table(report))
    sys.exit(not report.is_good)


def _arguments() -> tuple[Plan, bool]:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="trio")
    parser.add_argument("--transport", choices=("grpc", "websocket"), default="grpc")
    parser.add_argument("--http2", choices=HTTP2_WAYS, default="auto")
    parser.add_argument("--rate", type=float, default=150.0, help="events a second")
    parser.add_argument("--gap", type=float, default=1.0, help="seconds between faults")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    plan = Plan(
        given.minutes * 60,
        given.seed,
        given.backend,
        given.transport,
        given.http2,
        given.rate,
        given.gap,
    )
    return plan, given.json


if __name__ == "__main__":
    main()
