"""ensync demo: what it checks, and that it notices when that is not so."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from ensync.address import TransportName
from ensync.cli.demo import Demo, DemoError
from ensync.cli.failures import WRONG_USE, CommandError
from ensync.cli.running import run_async
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.unit.cli.command import run_command, started_command, stop

TRANSPORTS: list[TransportName] = ["grpc", "websocket"]


@pytest.mark.anyio
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_event_arrives_and_is_acknowledged(transport: TransportName) -> None:
    demo = Demo(300, transport)
    summary = await demo.run()
    assert (demo.published, demo.received, demo.acknowledged) == (300, 300, 300)
    assert summary.events == 300
    assert summary.redeliveries == 0
    assert 0 < summary.latency_p50 <= summary.latency_p99 <= summary.duration
    assert summary.rate == pytest.approx(300 / summary.duration)


def _with_faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    faults = Faults()

    def local_engine(**options: Any) -> LocalEngine:
        return LocalEngine(hooks=faults, **options)

    monkeypatch.setattr("ensync.cli.demo.LocalEngine", local_engine)
    return faults


@pytest.mark.anyio
async def test_a_lost_event_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_faults(monkeypatch).drop_delivery()
    with pytest.raises(DemoError, match="nothing has arrived for"):
        await Demo(10, "grpc", patience=0.2).run()


@pytest.mark.anyio
async def test_an_acknowledgement_that_does_nothing_fails_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ignore(*_arguments: object) -> None:
        return None

    monkeypatch.setattr("ensync.server.broker.Broker.ack", ignore)
    with pytest.raises(DemoError, match="10 events were published, but 0 were acknowledged"):
        await Demo(10, "grpc").run()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_command_ends_with_a_summary(backend: str) -> None:
    done = run_command("demo", "--events", "50", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "events",
        "rate",
        "latency",
        "latency",
        "redeliveries",
    ]
    assert "50 published, 50 received, 50 acknowledged" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_a_wrong_number_of_events_is_a_mistake_of_the_user() -> None:
    done = run_command("demo", "--events", "0")
    assert done.returncode == 2
    assert "--events" in done.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupt_ends_it_without_a_traceback(backend: str) -> None:
    with started_command("demo", "--events", "1000000", "--backend", backend) as demo:
        assert demo.stderr is not None
        demo.stderr.readline()
        assert "published" in demo.stderr.readline()
        _, told = stop(demo, signal.SIGINT)
    assert demo.returncode == 130
    assert told.endswith("error: interrupted\n")
    assert "Traceback" not in told


def test_without_trio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> None:
        raise AssertionError("it was started")

    def not_found(_name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", not_found)
    with pytest.raises(CommandError, match=r"pip install 'ensync\[trio\]'") as told:
        run_async(never, "trio")
    assert told.value.exit_code == WRONG_USE
