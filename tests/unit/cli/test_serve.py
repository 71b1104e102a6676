"""ensync serve: what it prints, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.unit.cli.command import SOURCE, run_command, started_command, stop
from tests.unit.cli.served import ANY_PORT, served

# Doors take two seconds at most to close; the rest is for a slow machine.
BOUND = 10.0


def test_it_prints_lines_for_a_dotenv_file_that_work(tmp_path: Path) -> None:
    with started_command("serve", *ANY_PORT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        (tmp_path / ".env").write_text("".join(lines))
        assert [line.partition("=")[0] for line in lines] == [
            "ENSYNC_URL",
            "ENSYNC_WS_URL",
            "ENSYNC_ADMIN_URL",
            "ENSYNC_APP_KEY",
            "ENSYNC_SECRET_KEY",
        ]
        done = run_command("doctor", directory=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        _, told = stop(process)
    assert process.returncode == 0
    assert told.endswith("SIGTERM: ending\nended\n")
    assert lines[4].partition("=")[2].strip() not in told


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_clients_connected(by: signal.Signals) -> None:
    with (
        served() as engine,
        started_command("subscribe", "live", variables=engine.variables) as subscriber,
    ):
        assert subscriber.stderr is not None
        assert "subscribed" in subscriber.stderr.readline()
        started = time.monotonic()
        stop(engine.process, by)
        assert engine.process.returncode == 0
        assert time.monotonic() - started < BOUND
        # The stream ended in a way that says: come again.
        assert "reconnecting" in subscriber.stderr.readline()
        stop(subscriber)
        assert subscriber.returncode == 0


ENDLESS_CLOSING = """
from ensync.scopes import until_cancelled
from ensync.server.grpc import GrpcDoor

async def aclose(door):
    await until_cancelled()

GrpcDoor.aclose = aclose
"""


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait(
    tmp_path: Path, first: signal.Signals, second: signal.Signals
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ENDLESS_CLOSING)
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCE}"}
    with started_command("serve", *ANY_PORT, "--json", variables=path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(first)
        assert process.stderr.readline() == f"{first.name}: ending\n"
        _, told = stop(process, second)
    assert process.returncode == 130
    assert told == f"error: {second.name}: not waiting for the end any longer\n"


def test_a_subscriber_finds_an_engine_that_is_back() -> None:
    with served() as engine:
        port = engine.told["url"].rpartition(":")[2]
        with started_command("subscribe", "live", variables=engine.variables) as subscriber:
            assert subscriber.stderr is not None
            subscriber.stderr.readline()
            stop(engine.process)
            assert "reconnecting" in subscriber.stderr.readline()
            # It is another engine, in memory, which knows no such key.
            with started_command("serve", "--port", port, "--ws-port", "0", "--json"):
                # It may have tried in vain so often that it waits for half a minute now.
                assert subscriber.wait(45) == 4


@pytest.mark.parametrize("flag", ["--port", "--ws-port", "--ui-port"])
def test_a_port_in_use_is_said(flag: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_command("serve", *ANY_PORT, "--ui", flag, str(port))
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1 port {port} for " in done.stderr
    assert f"Address already in use. {flag} takes another port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--host", "--ui-host"])
def test_a_host_of_another_machine_is_said(flag: str) -> None:
    done = run_command("serve", *ANY_PORT, "--ui", flag, "192.0.2.1")
    assert done.returncode == 1
    assert "can't listen on 192.0.2.1 port 0" in done.stderr
    assert f"{flag} must be an address of this machine" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_text_beyond_loopback_is_warned_of() -> None:
    with started_command("serve", *ANY_PORT, "--host", "0.0.0.0", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        _, told = stop(process)
    assert "without TLS" in told


class TlsFiles(NamedTuple):
    certificate: str
    key: str
    authority: str


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1", "localhost")
    contents = {
        "certificate.pem": b"".join(blob.bytes() for blob in made.cert_chain_pems),
        "key.pem": made.private_key_pem.bytes(),
        "authority.pem": authority.cert_pem.bytes(),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return TlsFiles(*(str(directory / name) for name in contents))


def test_tls(tls_files: TlsFiles) -> None:
    with served("--tls-cert", tls_files.certificate, "--tls-key", tls_files.key) as engine:
        assert engine.told["url"].startswith("grpcs://")
        assert engine.told["websocket_url"].startswith("wss://")
        for url in (engine.told["url"], engine.told["websocket_url"]):
            distrusted = engine.run("doctor", ENSYNC_URL=url)
            assert distrusted.returncode == 3
            assert "BAD tls: the certificate is not trusted" in distrusted.stdout
            assert "SSL_CERT_FILE" in distrusted.stdout
            trusted = engine.run("doctor", ENSYNC_URL=url, SSL_CERT_FILE=tls_files.authority)
            assert trusted.returncode == 0, trusted.stdout


def test_a_certificate_without_its_key_is_refused(tls_files: TlsFiles) -> None:
    without_key = run_command("serve", *ANY_PORT, "--tls-cert", tls_files.certificate)
    assert without_key.returncode == 2
    assert "belong together" in without_key.stderr
    alone = run_command("serve", *ANY_PORT, "--tls-key", tls_files.key)
    assert alone.returncode == 2
    assert "--tls-key needs --tls-cert" in alone.stderr


def test_the_page_is_served_when_asked_for() -> None:
    with started_command("serve", *ANY_PORT, "--ui") as process:
        assert process.stderr is not None
        link = process.stderr.readline().strip().removeprefix("what is going on: ")
        with urllib.request.urlopen(link, timeout=BOUND) as answer:
            assert b"<title>ensync engine</title>" in answer.read()
        rest, _ = stop(process)
    assert link not in rest
    with served() as engine:
        assert engine.told["ui_url"] is None


@pytest.mark.parametrize("flags", [("--ui-port", "0"), ("--ui-host", "::1")])
def test_options_of_the_page_need_the_page(flags: tuple[str, str]) -> None:
    done = run_command("serve", *ANY_PORT, *flags)
    assert done.returncode == 2
    assert "--ui-host and --ui-port need --ui" in done.stderr


def test_beyond_loopback_the_page_has_tls_or_a_warning(tls_files: TlsFiles) -> None:
    with started_command("serve", *ANY_PORT, "--ui", "--ui-host", "0.0.0.0", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        _, told = stop(process)
    assert "serving the page on 0.0.0.0 without TLS" in told
    secure = ("--tls-cert", tls_files.certificate, "--tls-key", tls_files.key)
    with served("--ui", "--ui-host", "0.0.0.0", *secure) as engine:
        trusted = ssl.create_default_context(cafile=tls_files.authority)
        link = engine.told["ui_url"]
        assert link.startswith("https://127.0.0.1:")
        with urllib.request.urlopen(link, timeout=BOUND, context=trusted) as answer:
            assert answer.status == 200
