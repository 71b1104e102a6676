"""`ensync serve` as a process: started, measured from its start on, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import ensync
from benchmarks.processes import CHECKOUT
from ensync.server.apps import App

__all__ = ["EVENT_NAME", "ServedEngine", "Start", "first_publish", "served"]

EVENT_NAME = "orders/created"
END_TIMEOUT = 60.0  # seconds
MIB = 1 << 20


class Start(NamedTuple):
    """How long a start has taken, in seconds from the start of the process on.

    ``processor`` is the engine's processor time until then, which other programs of a
    busy machine do not make longer (by much).
    """

    ready: float
    first_publish: float
    processor: float


class ServedEngine:
    """One that is running.

    Attributes:
        app: The app that it has made at its first start, or the one that was given.
        started: When its process was started, by time.perf_counter().
        ready: When it said that it is ready.
    """

    def __init__(self, data: Path | None, app: App | None) -> None:
        command = [sys.executable, "-m", "ensync", "serve", "--json", "--port", "0"]
        command += ["--ws-port", "0", *(["--data", str(data)] if data else [])]
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={"PYTHONPATH": str(CHECKOUT / "src"), "PATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self.ready = time.perf_counter()
        self.url: str = told["url"]
        self.app = app or App(**told["app"])

    def connect(self) -> AbstractAsyncContextManager[ensync.EnSyncClient]:
        """Connects a client."""
        return ensync.connect(
            self.url, app_key=self.app.app_key, app_secret_key=self.app.secret_key
        )

    def processor_seconds(self) -> float:
        """How much processor time it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = fields[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """How much memory it has, of what is not swapped out."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        [line] = [line for line in status if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024 / MIB

    def end(self, *, kill: bool = False) -> float:
        """Ends it, and returns how long that has taken, in seconds."""
        before = time.perf_counter()
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT)
        finally:
            self._process.kill()
            self._process.communicate()
        return time.perf_counter() - before


@contextmanager
def served(data: Path | None = None, app: App | None = None) -> Iterator[ServedEngine]:
    """An engine, for as long as the block is open."""
    engine = ServedEngine(data, app)
    try:
        yield engine
    finally:
        engine.end()


async def first_publish(engine: ServedEngine) -> Start:
    """Connects and publishes, at once when it has said that it is ready."""
    async with engine.connect() as client:
        await client.publish(EVENT_NAME, [client.app_id], {"order_id": 1})
        accepted = time.perf_counter()
    processor = engine.processor_seconds()
    return Start(engine.ready - engine.started, accepted - engine.started, processor)
