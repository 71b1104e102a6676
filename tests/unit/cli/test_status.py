"""ensync status --watch, as a terminal shows it."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ensync.cli import status as status_module
from ensync.cli.admin_client import AdminClient
from tests.unit.cli.in_process import invoke

STATUS: dict[str, object] = {
    "url": "grpc://127.0.0.1:50051",
    "websocket_url": "ws://127.0.0.1:8082",
    "statistics": dict.fromkeys(status_module.SHOWN_COUNTS, 1_234_567),
    "queues": [],
    "clients": [],
}
QUEUE = {
    "app": "shop",
    "app_id": "shop's",
    "event_name": "orders/paid",
    "waiting": 1,
    "leased": 2,
    "deferred": 3,
    "acknowledged": 4,
    "discarded": 5,
    "expired": 6,
}
URL = "http://127.0.0.1:1/token"


def terminal(screen: io.StringIO, *, is_terminal: bool = True) -> Console:
    return Console(
        file=screen,
        force_terminal=is_terminal,
        width=80,
        height=24,
        soft_wrap=True,
        color_system=None,
        _environ={"TERM": "xterm"},
    )


@pytest.mark.parametrize(("is_terminal", "looks"), [(True, 1), (False, 3)])
def test_nothing_is_cut_at_the_edge_of_a_terminal(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, looks: int
) -> None:
    screen = io.StringIO()
    console = terminal(screen, is_terminal=is_terminal)
    asked = 0

    def ask(_client: AdminClient, _method: str, _what: str) -> Any:
        nonlocal asked
        asked += 1
        if asked > looks:
            raise KeyboardInterrupt
        return STATUS

    monkeypatch.setattr(AdminClient, "ask", ask)
    monkeypatch.setattr(status_module, "out", console)
    done = invoke("status", "--watch", "--interval", "0.1", "--admin-url", URL)
    assert (done.returncode, asked) == (0, looks + 1)
    assert screen.getvalue().count("1,234,567 expired") == looks
    assert screen.getvalue().count("1,234,567 deferred") == looks


class InterruptedAtItsEnd:
    """Ctrl-C comes while this is being destroyed, where Python drops what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def ask(_client: AdminClient, _method: str, _what: str) -> Any:
        nonlocal asked
        asked += 1
        InterruptedAtItsEnd()
        return STATUS

    monkeypatch.setattr(AdminClient, "ask", ask)
    done = invoke("status", "--watch", "--json", "--interval", "86400", "--admin-url", URL)
    assert (done.returncode, asked) == (0, 1)
    assert done.stdout.count("\n") == 1


def test_what_has_become_of_events_is_told_for_each_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def ask(_client: AdminClient, _method: str, _what: str) -> Any:
        return STATUS | {"queues": [QUEUE]}

    monkeypatch.setattr(AdminClient, "ask", ask)
    monkeypatch.setattr(status_module, "out", terminal(screen))
    assert invoke("status", "--admin-url", URL).returncode == 0
    headings = "app event name waiting in flight deferred acked discarded expired"
    rows = [line.split() for line in screen.getvalue().splitlines()]
    assert headings.split() in rows
    assert ["shop", "orders/paid", "1", "2", "3", "4", "5", "6"] in rows


@pytest.mark.parametrize("interval", ["inf", "nan", "0", "x", "1e9"])
def test_an_interval_must_be_one(interval: str) -> None:
    done = invoke("status", "--watch", "--interval", interval)
    assert done.returncode == 2
    assert "no number of seconds from 0.1 to 86400" in done.stderr


def test_it_must_be_said_which_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("status")
    assert done.returncode == 2
    assert "which engine? Give --data FILE" in done.stderr
