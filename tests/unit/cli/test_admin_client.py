"""The admin URL beside the data: how it is left there, and what may be found in its place."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ensync.cli.admin_client import (
    AdminClient,
    NoEngineError,
    admin_file,
    announced,
    running_engine,
)
from ensync.cli.failures import FAILED, UNREACHABLE, CommandError

URL = "http://127.0.0.1:1/token"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "engine.sqlite"


@contextmanager
def other_server(status: int, body: bytes) -> Iterator[str]:
    """Something else that got the port of an engine; its URL with a token of that engine."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody asked."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/token"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, b'{"error": "wrong token"}'),
        (404, b"Not Found"),
        (200, b"<!doctype html>"),
        (200, b""),
    ],
)
def test_another_server_on_the_port_is_no_engine(data: Path, status: int, body: bytes) -> None:
    with other_server(status, body) as url:
        admin_file(data).write_text(url)
        assert running_engine(data) is None


@pytest.mark.parametrize(
    "left",
    [b"", b"\n", b"\xff\xfe", b"ftp://127.0.0.1:1/x", b"http://127.0.0.1:port/x", URL.encode()],
)
def test_what_is_left_there_may_be_unusable(data: Path, left: bytes) -> None:
    admin_file(data).write_bytes(left)
    assert running_engine(data) is None


def test_a_failing_engine_is_an_engine(data: Path) -> None:
    with other_server(503, b'{"error": "the engine\'s disk is full"}') as url:
        admin_file(data).write_text(url)
        with pytest.raises(CommandError, match="disk is full") as told:
            running_engine(data)
    assert told.value.exit_code == FAILED


def test_an_answer_that_is_no_json_is_told() -> None:
    with (
        other_server(200, b"<!doctype html>") as url,
        pytest.raises(NoEngineError, match="what answers at the admin URL is no engine") as told,
    ):
        AdminClient(url).ask("GET", "status")
    assert told.value.exit_code == UNREACHABLE


def test_it_is_never_there_without_its_text(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = admin_file(data)
    path.write_text("of an engine that was killed")
    written: list[Path] = []
    open_file = os.open

    def watched(name: Path, *args: Any) -> int:
        written.append(name)
        assert path.read_text() == "of an engine that was killed"
        return open_file(name, *args)

    monkeypatch.setattr(os, "open", watched)
    with announced(data, URL):
        assert path.read_text() == URL
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.listdir(data.parent) == [path.name]
    assert not path.exists()
    assert path not in written
