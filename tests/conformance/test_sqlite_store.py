from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ensync.scopes import background_tasks
from ensync.server.retention import Retention
from ensync.server.sqlite import SqliteStore
from ensync.server.sqlite_file import SqliteFile
from tests.conformance.store_contract import StoreContract, StoreHarness

pytestmark = pytest.mark.anyio

DEFAULT = Retention()


class SqliteHarness(StoreHarness):
    def __init__(self, path: Path, retention: Retention = DEFAULT) -> None:
        self.now_ms = 1_700_000_000_000
        self._path = path
        self._retention = retention
        self._running = AsyncExitStack()

    async def open(self) -> None:
        self.file = SqliteFile(self._path)
        self.store = self.sqlite = SqliteStore(
            self.file, retention=self._retention, now_ms=lambda: self.now_ms
        )
        self._running.push_async_callback(self.store.close)
        tasks = await self._running.enter_async_context(background_tasks())
        tasks.start_soon(self.store.run)

    async def close(self) -> None:
        await self._running.aclose()

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    async def advance(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        await self.sqlite.catch_up()

    async def settle_down(self) -> None:
        await super().settle_down()
        await self.sqlite.flush()
        await super().settle_down()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SqliteHarness]:
    harness = SqliteHarness(tmp_path / "events.db")
    await harness.open()
    yield harness
    await harness.close()


class TestSqliteStore(StoreContract):
    pass
