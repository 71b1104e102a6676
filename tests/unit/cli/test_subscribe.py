"""ensync subscribe and replay: what they show, and when they fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensync.server.store import EventState, NewEvent, QueueKey
from ensync.testing import EngineApp, ThreadedEngine
from tests.unit.cli.in_process import Done, invoke

# A terminal obeys the first, and writes backwards after the second.
STEERING = "\x9b31m\u202e"


@pytest.fixture(scope="module")
def threaded() -> Iterator[ThreadedEngine]:
    with ThreadedEngine() as engine:
        yield engine


@pytest.fixture
def app(threaded: ThreadedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineApp:
    monkeypatch.chdir(tmp_path)
    return threaded.create_app()


def _run(app: EngineApp, *arguments: str) -> Done:
    return invoke(*arguments, variables=app.environment)


def _publish(app: EngineApp, payload: str, *more: str) -> str:
    done = _run(app, "publish", "n", payload, "--to", "self", *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_event_that_can_not_be_read_is_reported_and_stays(
    threaded: ThreadedEngine, app: EngineApp
) -> None:
    store = threaded.engine.broker.store
    event = NewEvent(QueueKey(app.app_id, "n"), app.app_id, "not encrypted", "{}")
    idem = threaded.call(store.append, event).idem
    _publish(app, "1")
    done = _run(app, "subscribe", "n", "--count", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["payload"] == 1
    assert "left in the engine" in done.stderr
    found = threaded.call(store.find, idem)
    assert found is not None
    assert found.state is EventState.OPEN


def test_it_fails_when_an_acknowledgement_is_refused(
    threaded: ThreadedEngine, app: EngineApp
) -> None:
    _publish(app, "1")
    threaded.faults.refuse_next("acknowledge")
    refused = _run(app, "subscribe", "n", "--count", "1")
    assert refused.returncode == 1
    assert "the engine did not confirm 1 acknowledgement (1 refused)" in refused.stderr
    assert _run(app, "subscribe", "n", "--count", "1").returncode == 0


def test_without_acknowledging_nothing_is_missing(app: EngineApp) -> None:
    _publish(app, "1")
    assert _run(app, "subscribe", "n", "--count", "1", "--no-ack").returncode == 0


def test_it_ends_when_nothing_comes_in_time(app: EngineApp) -> None:
    nothing = _run(app, "subscribe", "n", "--timeout", "0.1")
    assert (nothing.returncode, "0 came" in nothing.stderr) == (6, True)
    _publish(app, "1")
    too_few = _run(app, "subscribe", "n", "--timeout", "2", "--count", "2")
    assert (too_few.returncode, "1 of 2 came" in too_few.stderr) == (6, True)
    assert too_few.stdout.splitlines()[-1] == "1"
    _publish(app, "2")
    assert _run(app, "subscribe", "n", "--timeout", "2").returncode == 0


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nothing_in_an_event_steers_the_terminal(app: EngineApp, form: list[str]) -> None:
    text = json.dumps({"t": STEERING})
    _publish(app, text, "--metadata", text)
    done = _run(app, "subscribe", "n", "--count", "1", *form)
    assert done.stdout.count(r"\u009b31m\u202e") == 2
    assert not set(STEERING[0] + STEERING[-1]) & set(done.stdout)


def test_metadata_is_shown_as_json_without_what_the_engine_adds(app: EngineApp) -> None:
    idem = _publish(app, "1", "--metadata", '{"ok": true, "none": null}')
    done = _run(app, "replay", "n", idem)
    assert '  metadata {"ok":true,"none":null}\n' in done.stdout
    assert "$internal" not in done.stdout
    assert "$internal" in json.loads(_run(app, "replay", "n", idem, "--json").stdout)["metadata"]
