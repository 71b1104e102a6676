"""What the log says of a data file that fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from ensync.scopes import background_tasks
from ensync.server.sqlite_failures import FailureLog
from ensync.server.sqlite_file import SqliteFile
from ensync.server.sqlite_writer import Operation, Writer
from ensync.server.store import StoreFailedError


class Clock:
    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> FailureLog:
    return FailureLog("the file", clock)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    def messages() -> list[str]:
        told = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return told

    return messages


def test_it_says_when_it_begins_and_ends(
    failures: FailureLog, logged: Callable[[], list[str]]
) -> None:
    failures.worked()
    for _ in range(1_000):
        failures.failed("full")
    assert logged() == ["the file can't be used: full"]
    failures.worked()
    failures.worked()
    assert logged() == ["the file can be used again after 999 more failures"]


def test_it_counts_every_minute(
    failures: FailureLog, clock: Clock, logged: Callable[[], list[str]]
) -> None:
    for _ in range(181):
        failures.failed("full")
        clock.seconds += 1
    assert logged() == [
        "the file can't be used: full",
        *["the file can't be used: full; 59 more failures before"] * 3,
    ]


def test_another_reason_is_news(failures: FailureLog, logged: Callable[[], list[str]]) -> None:
    failures.failed("full")
    failures.failed("gone")
    assert logged() == ["the file can't be used: full", "the file can't be used: gone"]


def test_failing_on_and_off_is_told_no_more_often(
    failures: FailureLog, clock: Clock, logged: Callable[[], list[str]]
) -> None:
    for _ in range(100):
        failures.failed("full")
        failures.worked()
    assert len(logged()) == 2
    clock.seconds += 60
    failures.failed("full")
    assert logged() == ["the file can't be used: full; 99 more failures before"]


@pytest.mark.anyio
async def test_refused_requests_are_told_once_until_the_file_is_written_again(
    tmp_path: Path, clock: Clock, logged: Callable[[], list[str]]
) -> None:
    is_full = True

    def insert() -> None:
        if is_full:
            raise sqlite3.OperationalError("disk is full")
        file.connection.execute("INSERT INTO queues (app_id, event_name) VALUES ('a', 'n')")

    def nothing() -> list[Operation[object]]:
        return []

    with closing(SqliteFile(tmp_path / "events.db", clock=clock)) as file:
        writer = Writer(file, nothing, lambda: None)
        async with background_tasks() as tasks:
            tasks.start_soon(writer.run)
            with anyio.fail_after(10):
                for _ in range(100):
                    with pytest.raises(StoreFailedError):
                        await writer.do(insert)
                (told,) = logged()
                assert told.endswith("can't be used: disk is full")
                is_full = False
                await writer.do(insert)
    (told,) = logged()
    assert told.endswith("can be used again after 99 more failures")
