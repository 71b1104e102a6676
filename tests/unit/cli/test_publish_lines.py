"""ensync publish from lines: what becomes of the others when the engine is gone for good."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest

import ensync
from ensync.cli.failures import NOT_PUBLISHED, UNREACHABLE, CommandError
from ensync.cli.publish_lines import Target, publish_lines
from ensync.cli.running import reason_of
from ensync.cli.standard_input import StandardInput
from ensync.client import EnSyncClient
from ensync.connection import ClientState
from ensync.errors import EnSyncPublishError
from ensync.options import Reconnect
from ensync.server.local import LocalEngine
from ensync.testing import ThreadedEngine

pytestmark = pytest.mark.anyio

LINES = 1000


@asynccontextmanager
async def client_of_an_engine_that_is_gone() -> AsyncIterator[EnSyncClient]:
    """It gives up in two seconds: lines are under way by then."""
    with ThreadedEngine() as engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr("random.random", lambda: 1.0)
        app = engine.create_app()
        async with ensync.connect(
            engine.url, app_key=app.app_key, reconnect=Reconnect(initial=2, max_attempts=1)
        ) as client:
            await engine.stop()
            yield client


@contextmanager
def standard_input_from(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with path.open() as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", file)
        yield


async def test_it_stops_and_says_how_much_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("\n".join(str(number) for number in range(LINES)))
    async with client_of_an_engine_that_is_gone() as client:
        target = Target("n", (client.app_id,), None)
        with (
            standard_input_from(lines, monkeypatch),
            anyio.fail_after(20),
            pytest.raises(CommandError) as told,
        ):
            await publish_lines(client, target, as_json=False)
    assert told.value.exit_code == UNREACHABLE
    counts = re.fullmatch(r"0 published, (\d+) not; (\d+) lines left", str(told.value))
    assert counts is not None
    assert sum(int(count) for count in counts.groups()) == LINES
    errors = capsys.readouterr().err
    assert errors.count("gave up after") <= 4  # each reason once, and once with its count
    assert "more lines: " in errors


async def test_it_does_not_wait_for_a_line_when_the_engine_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with client_of_an_engine_that_is_gone() as client:
        target = Target("n", (client.app_id,), None)
        with _pipe(monkeypatch), anyio.fail_after(20), pytest.raises(CommandError) as told:
            await publish_lines(client, target, as_json=False)
        assert client.state is ClientState.CLOSED
    assert told.value.exit_code == UNREACHABLE
    assert "the rest of the input was not read" in str(told.value)


@contextmanager
def _pipe(monkeypatch: pytest.MonkeyPatch, content: bytes = b"") -> Iterator[None]:
    reader, writer = os.pipe()
    with os.fdopen(reader) as file, os.fdopen(writer, "wb") as end:
        end.write(content)
        end.flush()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            yield


async def test_the_same_reason_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("1\n" * 100)
    async with LocalEngine() as engine:
        app = engine.create_app("shop", send=["other"])
        async with ensync.connect(engine.url, app_key=app.app_key) as client:
            target = Target("n", (client.app_id,), None)
            with (
                standard_input_from(lines, monkeypatch),
                pytest.raises(CommandError, match="0 published, 100 not") as told,
            ):
                await publish_lines(client, target, as_json=False)
    assert told.value.exit_code == NOT_PUBLISHED
    first, repeated = capsys.readouterr().err.splitlines()
    assert re.match(r"error: line \d+: the engine refused the event: ", first)
    assert repeated.startswith("error: 99 more lines: the engine refused the event: ")


async def test_lines_come_whole_however_they_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = b"x" * 200_000
    path = tmp_path / "lines"
    path.write_bytes(b"a\n\n" + long + b"\nlast")
    with standard_input_from(path, monkeypatch):
        source = StandardInput()
        assert [line async for line in source.lines()] == [b"a", b"", long, b"last"]
        assert source.read_bytes == source.total_bytes == path.stat().st_size
        assert (source.taken, await source.count_left()) == (4, 0)


async def test_how_many_lines_of_a_pipe_are_left_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _pipe(monkeypatch, b"1\n2\n"):
        source = StandardInput()
        assert source.total_bytes is None
        async with aclosing(source.lines()) as lines:
            assert await anext(lines) == b"1"
        assert await source.count_left() is None


async def test_a_refusal_for_one_recipient_is_told_without_counting() -> None:
    reason = ensync.EnSyncError("no permission")
    one = EnSyncPublishError("accepted for 0, rejected for 1", rejected={"a": reason})
    two = EnSyncPublishError("accepted for 1", accepted={"b": "1"}, rejected={"a": reason})
    assert (reason_of(one), reason_of(two)) == ("no permission", "accepted for 1")
