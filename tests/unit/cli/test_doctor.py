"""ensync doctor: what is wrong with a connection, and what to do about it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import anyio
import pytest

from ensync.crypto import SecretKey
from ensync.testing.listener import bound_socket
from tests.unit.cli.in_process import Done, invoke
from tests.unit.cli.served import Served


@pytest.fixture(autouse=True)
def no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _doctor(engine: Served, *arguments: str, **variables: str) -> Done:
    return invoke("doctor", *arguments, variables=engine.variables | variables)


def test_all_is_well(engine: Served) -> None:
    done = _doctor(engine, "--json")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [finding["ok"] for finding in findings] == [True] * 7
    assert [finding["step"] for finding in findings][-2:] == ["app key", "round trip"]


def test_nothing_listens(engine: Served) -> None:
    with bound_socket("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        done = _doctor(engine, ENSYNC_URL=f"grpc://127.0.0.1:{port}")
    assert done.returncode == 3
    assert f"BAD connection: nothing answers at 127.0.0.1 port {port}" in done.stdout
    assert "ensync serve" in done.stdout


@pytest.mark.parametrize(("scheme", "other"), [("grpc", "ENSYNC_WS_URL"), ("ws", "ENSYNC_URL")])
def test_the_wrong_door(engine: Served, scheme: str, other: str) -> None:
    port = engine.variables[other].rpartition(":")[2]
    done = _doctor(engine, ENSYNC_URL=f"{scheme}://127.0.0.1:{port}")
    assert done.returncode == 3
    assert "BAD app key: " in done.stdout
    assert "not an engine of this kind" in done.stdout


def test_an_unknown_host(engine: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(anyio, "getaddrinfo", unknown)
    done = _doctor(engine, ENSYNC_URL="grpc://nosuch.invalid")
    assert done.returncode == 3
    assert "BAD name: nosuch.invalid has no address: Name or service not known" in done.stdout


def test_a_wrong_app_key(engine: Served) -> None:
    done = _doctor(engine, "--app-key", "wrong-key-that-nobody-has")
    assert done.returncode == 4
    assert "BAD app key: " in done.stdout
    assert "wrong-key-that-nobody-has" not in done.stdout


@pytest.mark.parametrize("as_flag", [True, False])
def test_a_secret_key_of_another_app_is_named_by_where_it_comes_from(
    engine: Served, as_flag: bool
) -> None:
    key = SecretKey.generate()
    if as_flag:
        done = _doctor(engine, "--secret-key", key.reveal())
    else:
        done = _doctor(engine, ENSYNC_SECRET_KEY=key.reveal())
    source = "--secret-key" if as_flag else "ENSYNC_SECRET_KEY"
    assert done.returncode == 2
    expected = f"BAD app key: {source} belongs to app {key.app_id}, and the app key to app"
    assert expected in done.stdout
    assert engine.app_id in done.stdout


def test_settings_that_are_missing() -> None:
    done = invoke("doctor", "--json", variables={"ENSYNC_URL": ""})
    (finding,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2
    assert (finding["step"], finding["ok"]) == ("settings", False)
    assert "make another app: ensync apps create NAME" in finding["advice"]


@pytest.mark.parametrize("command", [("subscribe", "n", "--count", "1"), ("replay", "n", "x")])
def test_other_commands_refuse_the_secret_key_of_another_app(
    engine: Served, command: tuple[str, ...]
) -> None:
    other = {"ENSYNC_SECRET_KEY": SecretKey.generate().reveal()}
    done = invoke(*command, variables=engine.variables | other)
    assert done.returncode == 2
    assert "error: ENSYNC_SECRET_KEY belongs to app" in done.stderr
