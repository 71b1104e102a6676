"""ensync publish, subscribe, replay and status, against ensync serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.command import run_command, started_command
from tests.unit.cli.served import Served


def _events(engine: Served, event_name: str, count: int, *more: str) -> list[Any]:
    done = engine.run("subscribe", event_name, "--count", str(count), "--json", *more)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _queue(engine: Served, event_name: str) -> dict[str, int]:
    (queue,) = [q for q in engine.json("status")["queues"] if q["event_name"] == event_name]
    fields = ("waiting", "leased", "acknowledged")
    return {field: queue[field] for field in fields}


def test_a_published_event_is_shown_and_acknowledged(engine: Served) -> None:
    done = engine.run("publish", "one", '{"ä": 1}', "--to", "self", "--metadata", '{"m": true}')
    assert done.returncode == 0, done.stderr
    assert _queue(engine, "one") == {"waiting": 1, "leased": 0, "acknowledged": 0}
    (event,) = _events(engine, "one", 1)
    assert event["idem"] == done.stdout.strip()
    assert event["payload"] == {"ä": 1}
    assert event["metadata"] == {"m": True}
    assert event["sender"] == event["recipient"] == engine.app_id
    assert event["redelivered"] is False
    assert _queue(engine, "one") == {"waiting": 0, "leased": 0, "acknowledged": 1}


def test_looking_without_acknowledging(engine: Served) -> None:
    engine.json("publish", "looked-at", "1", "--to", engine.app_id)
    (first,) = _events(engine, "looked-at", 1, "--no-ack")
    assert _queue(engine, "looked-at")["acknowledged"] == 0
    (second,) = _events(engine, "looked-at", 1)
    assert first["idem"] == second["idem"]


def test_a_payload_from_a_file(engine: Served, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text('["from", "a file"]')
    engine.json("publish", "filed", "--file", str(file), "--to", "self")
    (event,) = _events(engine, "filed", 1)
    assert event["payload"] == ["from", "a file"]


def test_lines_of_standard_input(engine: Served) -> None:
    done = engine.run(
        "publish", "lines", "--to", "self", standard_input='{"n": 1}\n\n{"n": 2}\n{"n": 3}'
    )
    assert done.returncode == 0, done.stderr
    assert "3 published, 0 not" in done.stderr
    events = _events(engine, "lines", 3)
    assert sorted(event["payload"]["n"] for event in events) == [1, 2, 3]
    assert sorted(event["idem"] for event in events) == sorted(done.stdout.split())


def test_bad_lines_are_reported_and_the_others_go_on(engine: Served) -> None:
    done = engine.run(
        "publish", "bad-lines", "--to", "self", "--json", standard_input="1\nNaN\n{bad\n2\n"
    )
    assert done.returncode == 5
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 4]
    assert "line 2: not JSON" in done.stderr
    assert "line 3: not JSON" in done.stderr
    assert len(_events(engine, "bad-lines", 2)) == 2


def test_replay_shows_an_acknowledged_event(engine: Served) -> None:
    idem = engine.run("publish", "again", '"x"', "--to", "self").stdout.strip()
    _events(engine, "again", 1)
    event = engine.json("replay", "again", idem)
    assert (event["idem"], event["payload"]) == (idem, "x")
    assert engine.run("replay", "again", idem).stdout.splitlines()[-1] == '"x"'
    unknown = engine.run("replay", "again", "0" * 32)
    assert unknown.returncode == 1
    assert "unknown event" in unknown.stderr


def test_the_pretty_form_tells_everything(engine: Served) -> None:
    engine.json("publish", "pretty", '{"deep": [1]}', "--to", "self", "--metadata", '{"m": 1}')
    done = engine.run("subscribe", "pretty", "--count", "1")
    assert "pretty" in done.stdout
    assert f"from {engine.app_id}" in done.stdout
    assert '"deep": [' in done.stdout
    assert "\x1b" not in done.stdout


def test_status_for_people(engine: Served) -> None:
    engine.json("publish", "waiting/for/somebody", "1", "--to", "self")
    done = engine.run("status")
    assert done.returncode == 0
    (row,) = [line for line in done.stdout.splitlines() if "waiting/for/somebody" in line]
    assert row.split() == ["first-app", "waiting/for/somebody", "1", "0", "0", "0", "0", "0"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("publish", "n", "1"), 2, "to whom?"),
        (("publish", "n", "{", "--to", "self"), 2, "the payload is not JSON"),
        (("publish", "n", "1", "--to", "nobody"), 2, "this is not an app id"),
        (("publish", "n", "1", "--to", "self", "--metadata", "[]"), 2, "must be a JSON object"),
        (("publish", "n", "1", "--file", "x", "--to", "self"), 2, "not both"),
        (("publish", "n", "--file", "/no/such", "--to", "self"), 2, "/no/such: No such file"),
        (("publish", "a;b", "1", "--to", "self"), 2, "event_name must not contain"),
        (("publish", "n", "1", "--to", "self", "--url", "ftp://x"), 2, "accepted are"),
        (("publish", "n", "1", "--to", "self", "--url", "localhost:1"), 3, "localhost:1"),
        (("publish", "n", "1", "--to", "self", "--app-key", "wrongwrong"), 4, "unknown app key"),
        (("subscribe", "n", "--secret-key", "abc"), 2, "app_secret_key"),
        (("subscribe", "n", "--count", "0"), 2, "--count"),
        (("status", "--admin-url", "http://127.0.0.1:1/x"), 3, "is ensync serve still running?"),
        (("status", "--admin-url", "http://example.org"), 2, "not one that ensync serve"),
        (("no-such-command",), 2, "no-such-command"),
    ],
)
def test_mistakes_are_told_in_a_line(
    engine: Served, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = engine.run(*arguments)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    for name in ("ENSYNC_APP_KEY", "ENSYNC_SECRET_KEY"):
        assert engine.variables[name] not in done.stderr


def test_settings_that_are_missing_are_named(tmp_path: Path) -> None:
    done = run_command("publish", "n", "1", "--to", "self", directory=tmp_path)
    assert done.returncode == 2
    assert "ENSYNC_URL is missing: give --url" in done.stderr


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["pretty", "json"])
def test_a_reader_that_goes_away_ends_it_without_a_traceback(
    engine: Served, form: list[str]
) -> None:
    lines = "\n".join(str(number) for number in range(200))
    engine.run("publish", "piped", "--to", "self", standard_input=lines)
    with started_command("subscribe", "piped", *form, variables=engine.variables) as subscriber:
        assert subscriber.stdout is not None
        assert subscriber.stderr is not None
        subscriber.stdout.readline()
        subscriber.stdout.close()
        subscriber.stderr.readline()
        engine.run("publish", "piped", '"one more"', "--to", "self")
        assert subscriber.wait(20) == 1
        assert "Traceback" not in subscriber.stderr.read()
