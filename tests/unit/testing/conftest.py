"""A proxy with an echo server behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ensync.testing import FaultProxy
from tests.unit.testing.echo import Echo, echo_server


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with echo_server() as server:
        yield server


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(echo.url) as running:
        yield running
