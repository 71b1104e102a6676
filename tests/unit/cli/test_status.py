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

COUNTS = ("published", "delivered", "redelivered", "acknowledged", "deferred", "discarded")
STATUS: dict[str, object] = {
    "url": "grpc://127.0.0.1:50051",
    "websocket_url": "ws://127.0.0.1:8082",
    "statistics": dict.fromkeys(COUNTS, 1_234_567),
    "queues": [],
    "clients": [],
}


@pytest.mark.parametrize(("is_terminal", "looks"), [(True, 1), (False, 3)])
def test_nothing_is_cut_at_the_edge_of_a_terminal(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, looks: int
) -> None:
    screen = io.StringIO()
    console = Console(
        file=screen,
        force_terminal=is_terminal,
        width=80,
        height=24,
        soft_wrap=True,
        color_system=None,
        _environ={"TERM": "xterm"},
    )
    asked = 0

    def ask(_client: AdminClient, _method: str, _what: str) -> Any:
        nonlocal asked
        asked += 1
        if asked > looks:
            raise KeyboardInterrupt
        return STATUS

    monkeypatch.setattr(AdminClient, "ask", ask)
    monkeypatch.setattr(status_module, "out", console)
    url = "http://127.0.0.1:1/token"
    done = invoke("status", "--watch", "--interval", "0.1", "--admin-url", url)
    assert (done.returncode, asked) == (0, looks + 1)
    assert screen.getvalue().count("1,234,567 discarded") == looks
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
    url = "http://127.0.0.1:1/token"
    done = invoke("status", "--watch", "--json", "--interval", "86400", "--admin-url", url)
    assert (done.returncode, asked) == (0, 1)
    assert done.stdout.count("\n") == 1


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
