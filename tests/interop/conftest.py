"""What the tests beside clients of other SDKs have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ensync.server.local import LocalEngine
from ensync.server.store import NewEvent, QueueKey
from tests.interop.environments import REQUIREMENTS, python_with


@pytest.fixture(scope="session", autouse=True)
def environments() -> None:
    """Makes all environments before the first test, whose time limits are not for that."""
    for requirement in REQUIREMENTS:
        python_with(requirement)


@pytest.fixture
async def new_engine() -> AsyncIterator[LocalEngine]:
    async with LocalEngine() as engine:
        yield engine


@pytest.fixture
async def engine(new_engine: LocalEngine) -> LocalEngine:
    """An engine whose next event is not its first, which has a block that they can't handle."""
    nobodys = NewEvent(QueueKey("nobody", "nothing"), sender="nobody", payload="", metadata="{}")
    stored = await new_engine.broker.store.append(nobodys)
    assert stored.block == 0
    return new_engine
