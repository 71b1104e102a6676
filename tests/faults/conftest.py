"""The fixtures of the conformance suite, and a network that can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ensync.testing import FaultProxy
from tests.conformance.conftest import (
    client,
    engine,
    event_name,
    faults,
    other_client,
    pytest_collection_modifyitems,
    pytest_generate_tests,
    target,
)
from tests.conformance.harness import Target

__all__ = [
    "client",
    "engine",
    "event_name",
    "faults",
    "other_client",
    "proxied",
    "proxy",
    "pytest_collection_modifyitems",
    "pytest_generate_tests",
    "target",
]


@pytest.fixture
async def proxy(target: Target) -> AsyncIterator[FaultProxy]:
    """The network in front of the engine."""
    async with FaultProxy(target.url) as proxy:
        yield proxy


@pytest.fixture
def proxied(target: Target, proxy: FaultProxy) -> Target:
    """The engine behind that network."""
    return target._replace(url=proxy.url)
