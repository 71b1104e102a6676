"""ensync serve and ensync apps with --data: what is kept, and how a running engine is found."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from ensync.cli.admin_client import admin_file
from tests.unit.cli.command import run_command, stop
from tests.unit.cli.served import served


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "engine.sqlite"


def _names(data: Path) -> list[str]:
    done = run_command("apps", "list", "--data", str(data), "--json")
    assert done.returncode == 0, done.stderr
    return [app["name"] for app in json.loads(done.stdout)]


def test_apps_and_events_are_there_after_a_kill(data: Path) -> None:
    with served("--data", str(data)) as engine:
        keys = {name: engine.variables[name] for name in ("ENSYNC_APP_KEY", "ENSYNC_SECRET_KEY")}
        idem = engine.run("publish", "kept", '"x"', "--to", "self").stdout.strip()
        engine.process.kill()
        engine.process.wait()
    assert admin_file(data).exists()  # left behind, and to be seen through
    assert run_command("status", "--data", str(data)).returncode == 3
    assert _names(data) == ["first-app"]
    with served("--data", str(data)) as engine:
        assert engine.told["app"] is None
        shown = engine.run("subscribe", "kept", "--count", "1", "--json", **keys)
        assert json.loads(shown.stdout)["idem"] == idem
        stop(engine.process)
        assert engine.process.returncode == 0
    assert not admin_file(data).exists()


def test_apps_of_a_running_engine_are_changed_through_it(data: Path) -> None:
    path = str(data)
    assert run_command("apps", "create", "before", "--data", path).returncode == 0
    with served("--data", path) as engine:
        assert stat.S_IMODE(admin_file(data).stat().st_mode) == 0o600
        made = run_command("apps", "create", "meanwhile", "--data", path)
        keys = dict(line.split("=", 1) for line in made.stdout.splitlines())
        assert engine.run("publish", "n", "1", "--to", "self", **keys).returncode == 0
        status = run_command("status", "--data", path, "--json")
        (queue,) = json.loads(status.stdout)["queues"]
        assert (queue["app"], queue["event_name"], queue["waiting"]) == ("meanwhile", "n", 1)
        second = run_command("serve", "--data", path, "--port", "0", "--ws-port", "0")
        assert second.returncode == 1
        assert "in use by another engine" in second.stderr
        assert run_command("status", "--data", path).returncode == 0
    assert _names(data) == ["before", "meanwhile"]


def test_a_file_that_is_none_of_ours_is_refused(data: Path) -> None:
    data.write_text("something else\n" * 100)
    for command in (["serve", "--port", "0", "--ws-port", "0"], ["apps", "list"]):
        done = run_command(*command, "--data", str(data))
        assert done.returncode == 1
        assert str(data) in done.stderr
        assert "Traceback" not in done.stderr
    assert data.read_text().startswith("something else\n")


@pytest.mark.parametrize(
    ("path", "reason"), [("missing/engine.sqlite", "there is no directory"), ("/proc/e", "can't")]
)
def test_a_file_that_can_not_be_made_is_said(tmp_path: Path, path: str, reason: str) -> None:
    done = run_command(
        *("serve", "--port", "0", "--ws-port", "0", "--data", path), directory=tmp_path
    )
    assert done.returncode == 1
    assert reason in done.stderr
    assert path in done.stderr
    assert "Traceback" not in done.stderr
