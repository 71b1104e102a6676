"""The command in surroundings that are hostile: it ends in a line, with the right exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.cli.command import (
    COMMAND,
    LIMIT,
    SOURCE,
    environment,
    run_command,
    run_redirected,
    started_command,
)
from tests.unit.cli.served import Served

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="is about Unix streams")

needs_full_device = pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="there is no /dev/full"
)
NO_SPACE = "error: can't write the output: No space left on device\n"
FULL, CLOSED = ">/dev/full", ">&-"


@pytest.mark.parametrize(
    ("command", "content", "text"),
    [
        (("doctor",), b"ENSYNC_URL\n", ".env, line 1: expected NAME=value"),
        (("subscribe", "n"), b"ENSYNC_URL=\xff\n", ".env is not UTF-8 text"),
        (("replay", "n", "x"), None, ".env can't be read: Is a directory"),
    ],
)
def test_a_bad_dotenv(
    tmp_path: Path, command: tuple[str, ...], content: bytes | None, text: str
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.mkdir() if content is None else dotenv.write_bytes(content)
    done = run_command(*command, directory=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {text}\n")


@pytest.mark.parametrize(
    ("redirection", "command", "code", "told"),
    [
        ("<&-", "publish n --to self", 2, "error: standard input is closed\n"),
        ("<&-", "keys inspect --stdin", 2, "error: standard input is closed\n"),
        (
            "</dev/null",
            "keys inspect --stdin",
            2,
            "error: no key: the first line of standard input is empty\n",
        ),
        pytest.param(FULL, "--help", 1, NO_SPACE, marks=needs_full_device),
        pytest.param(FULL, "keys new", 1, NO_SPACE, marks=needs_full_device),
        pytest.param(FULL, "status", 1, NO_SPACE, marks=needs_full_device),
        pytest.param(FULL, "publish n 1 --to self", 1, NO_SPACE, marks=needs_full_device),
        (CLOSED, "keys new", 1, "error: can't write the output: standard output is closed\n"),
    ],
)
def test_streams_that_can_not_be_used(
    engine: Served, redirection: str, command: str, code: int, told: str
) -> None:
    done = run_redirected(redirection, *command.split(), variables=engine.variables)
    assert done.returncode == code
    assert done.stderr.endswith(told)
    assert "Traceback" not in done.stderr


@needs_full_device
def test_an_app_whose_keys_are_not_shown_is_none(engine: Served, tmp_path: Path) -> None:
    data = str(tmp_path / "engine.sqlite")
    done = run_redirected(FULL, "apps", "create", "lost", variables=engine.variables)
    assert (done.returncode, done.stderr) == (1, NO_SPACE)
    with _no_reader() as output:
        done = subprocess.run(
            [*COMMAND, "apps", "create", "lost", "--json"],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(engine.variables),
            timeout=LIMIT,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "error: nobody reads the output any more\n")
    assert [app["name"] for app in engine.json("apps", "list")] == ["first-app"]

    served = run_redirected(FULL, "serve", "--port", "0", "--ws-port", "0", "--data", data)
    assert (served.returncode, served.stderr) == (1, NO_SPACE)
    assert json.loads(run_command("apps", "list", "--json", "--data", data).stdout) == []


@contextmanager
def _no_reader() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


INTERRUPTED_WHILE_IMPORTING = """
import importlib.abc, os, signal, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "ensync.cli.app":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


def test_an_interrupt_before_anything_is_imported(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_WHILE_IMPORTING)
    done = subprocess.run(
        [sys.executable, "-m", "ensync_command", "--version"],
        capture_output=True,
        text=True,
        env=environment({"PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCE}"}),
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("by", "code", "last"),
    [(signal.SIGINT, 130, "error: interrupted\n"), (signal.SIGTERM, 143, "error: terminated\n")],
)
def test_publishing_lines_is_stopped_while_it_waits_for_one(
    engine: Served, by: signal.Signals, code: int, last: str
) -> None:
    with subprocess.Popen(
        [*COMMAND, "publish", "stopped", "--to", "self"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(engine.variables),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("1\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(by)
        try:
            assert process.wait(LIMIT) == code  # with its input still open
        finally:
            process.kill()
        assert process.stderr.read() == f"1 published, 0 not\n{last}"


@pytest.mark.parametrize(
    ("command", "by", "code"),
    [
        (("subscribe", "n"), signal.SIGINT, 0),
        (("subscribe", "n"), signal.SIGTERM, 0),
        (("status", "--watch"), signal.SIGINT, 0),
        (("status", "--watch", "--json"), signal.SIGINT, 0),
        (("status", "--watch"), signal.SIGTERM, -signal.SIGTERM),
    ],
)
def test_what_goes_on_is_stopped(
    engine: Served, command: tuple[str, ...], by: signal.Signals, code: int
) -> None:
    with started_command(*command, variables=engine.variables) as process:
        stream = process.stderr if command[0] == "subscribe" else process.stdout
        assert stream is not None
        assert stream.readline()
        process.send_signal(by)
        _, told = process.communicate(timeout=LIMIT)
    assert process.returncode == code
    assert "Traceback" not in told


def test_an_output_for_ascii_alone(engine: Served) -> None:
    plain = {"PYTHONIOENCODING": "ascii"}
    text = '{"ä": "ö"}'
    assert engine.run("publish", "ä", text, "--to", "self").returncode == 0
    shown = engine.run("subscribe", "ä", "--count", "1", "--no-ack", **plain)
    assert (shown.returncode, "Traceback" in shown.stderr) == (0, False)
    assert r'"\u00e4": "\u00f6"' in shown.stdout
    event = engine.json("subscribe", "ä", "--count", "1", **plain)
    assert event["payload"] == {"ä": "ö"}


def test_a_narrow_terminal_shows_app_ids_whole(engine: Served) -> None:
    done = engine.run("apps", "list", COLUMNS="40", NO_COLOR="1")
    assert engine.app_id in done.stdout
    assert "\x1b" not in done.stdout
