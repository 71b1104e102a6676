"""Everything that the documentation shows runs, as it stands there."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import anyio
import pytest

import ensync
from ensync.server.apps import App
from ensync.server.local import LocalEngine
from tests.documents import ROOT, Block, blocks_of, recipes_of_make, targets_of_make
from tests.unit.cli.command import environment, started_command
from tests.unit.cli.served import Served, served

# Its programs are run by a test of their own.
ELSEWHERE = {"testing-faults.md"}
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in ELSEWHERE),
]
BLOCKS = [block for path in DOCUMENTS for block in blocks_of(path)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
PROGRAMS = [block for block in PYTHON if block.is_program]
TEST_MODULES = [block for block in PYTHON if block.is_test_module]
FRAGMENTS = [block for block in PYTHON if not block.is_program and not block.is_test_module]
SHELL = [block for block in BLOCKS if block.language == "sh"]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# Not code to run: forms and figures.
SHOWN_ONLY = {"", "text", "json", "ini"}
# What sets up an environment, which the tests have.
SET_UP = {"python3", ".", "pip", "export", "set"}

# The fixtures too where ensync is not installed, and pytest is not told of them.
PLUGINS = ["-p", "pytest_ensync", "-p", "no:cacheprovider"]

LIMIT = 25.0  # seconds


def by_name(block: Block) -> str:
    return block.name


@pytest.fixture(scope="module")
def engine() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the ensync command, for shell blocks."""
    directory = tmp_path_factory.mktemp("bin")
    command = directory / "ensync"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ensync "$@"\n')
    command.chmod(0o755)
    return directory


def _run(
    command: list[str], engine: Served, directory: Path, path: str = ""
) -> subprocess.CompletedProcess[str]:
    variables = environment(engine.variables)
    variables["PATH"] = f"{path}{os.pathsep}{variables['PATH']}"
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=variables,
        cwd=directory,
        timeout=LIMIT,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _run_python(path: Path, engine: Served, directory: Path) -> None:
    done = _run([sys.executable, "-W", "error", str(path)], engine, directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout, "an example shows something"


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "sh", *SHOWN_ONLY}
    assert PROGRAMS
    assert FRAGMENTS
    assert SHELL
    assert EXAMPLES


@pytest.mark.parametrize("block", PROGRAMS, ids=by_name)
def test_program(block: Block, engine: Served, tmp_path: Path) -> None:
    # The port is the one thing that is not as it stands: 50051 may be in use here.
    code = block.code.replace('"grpc://localhost"', repr(engine.variables["ENSYNC_URL"]))
    (tmp_path / "program.py").write_text(code)
    _run_python(tmp_path / "program.py", engine, tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example(example: Path, engine: Served, tmp_path: Path) -> None:
    _run_python(example, engine, tmp_path)


@pytest.mark.parametrize("block", TEST_MODULES, ids=by_name)
def test_test_module(block: Block, engine: Served, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(block.code)
    done = _run(
        [sys.executable, "-m", "pytest", "-q", *PLUGINS, "test_it.py"],
        engine,
        tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", FRAGMENTS, ids=by_name)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_fragment(block: Block, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    anyio.run(_run_fragment, block, monkeypatch, backend=backend)


async def _run_fragment(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalEngine() as engine:
        app = engine.create_app("reader")
        _set_environment(monkeypatch, engine, app)
        with anyio.fail_after(LIMIT):
            async with ensync.connect() as client:
                for number in range(block.events):
                    await client.publish(block.publish, [client.app_id], {"number": number})
                await _until_settled(
                    block, {"anyio": anyio, "ensync": ensync, "client": client}, engine
                )


def _set_environment(monkeypatch: pytest.MonkeyPatch, engine: LocalEngine, app: App) -> None:
    monkeypatch.setenv("ENSYNC_URL", engine.url)
    monkeypatch.setenv("ENSYNC_WS_URL", engine.websocket_url)
    monkeypatch.setenv("ENSYNC_APP_KEY", app.app_key)
    monkeypatch.setenv("ENSYNC_SECRET_KEY", app.secret_key)


async def _until_settled(block: Block, names: dict[str, Any], engine: LocalEngine) -> None:
    """Runs a block; one that goes on for ever is over when it has settled all there is."""

    def settled() -> int:
        numbers = engine.statistics()
        return numbers.acknowledged + numbers.deferred + numbers.discarded

    async def stop_when_settled() -> None:
        while settled() < block.events:  # noqa: ASYNC110 - an engine tells nobody
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        if block.events:
            tasks.start_soon(stop_when_settled)
        await _execute(block, names)
        if not block.events:
            tasks.cancel_scope.cancel()
    assert settled() >= block.events


async def _execute(block: Block, names: dict[str, Any]) -> None:
    # Blank lines before it, so that a traceback tells the line of the document.
    code = compile(
        "\n" * (block.line - 1) + block.code,
        str(ROOT / block.document),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
    )
    if code.co_flags & inspect.CO_COROUTINE:
        await cast("Awaitable[object]", FunctionType(code, names)())
    else:
        exec(code, names)


@pytest.mark.parametrize("block", SHELL, ids=by_name)
def test_shell(block: Block, engine: Served, tmp_path: Path, programs: Path) -> None:
    kinds = {_kind(command) for command in block.commands}
    assert kinds <= {"make", "set-up", "check", "serve", "ensync"}
    if "serve" in kinds:
        assert kinds == {"serve"}
        _check_serve(block, tmp_path)
    elif "ensync" in kinds:
        script = "set -euo pipefail\n" + block.code.replace("APP_ID", engine.app_id)
        bash = shutil.which("bash")
        assert bash is not None
        done = _run([bash, "-c", script], engine, tmp_path, str(programs))
        assert done.returncode == 0, done.stderr


def _kind(command: list[str]) -> str:
    if command[0] == "make":
        assert set(command[1:]) <= targets_of_make()
        return "make"
    if command[0] in SET_UP:
        return "set-up"
    if command in recipes_of_make():
        return "check"
    return "serve" if command[:2] == ["ensync", "serve"] else "ensync"


def _check_serve(block: Block, directory: Path) -> None:
    (command,) = block.commands
    arguments = [word for word in command[1:] if word != "&"]
    # Free ports, as those that it shows may be in use.
    with started_command(
        *arguments, "--port", "0", "--ws-port", "0", directory=directory
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ENSYNC_URL=")
