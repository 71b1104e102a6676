"""The pytest plugin: an engine for each test, module or session, for tests of any kind.

Pytest loads this in every project of an environment in which ensync is installed, so it
stands apart from the package: all that it imports is what pytest has imported before.
The engines run in threads of their own, so the fixtures are plain ones, and a test may
be sync, or async by anyio's plugin, pytest-asyncio or pytest-trio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ensync.testing import EngineApps, ThreadedEngine

__all__ = [
    "ensync_apps",
    "ensync_engine",
    "ensync_engine_options",
    "ensync_module_apps",
    "ensync_module_engine",
    "ensync_session_apps",
    "ensync_session_engine",
]


@pytest.fixture(scope="session")
def ensync_engine_options() -> Mapping[str, Any]:
    """Options of LocalEngine for the engines of the other fixtures; to be overridden."""
    return {}


@pytest.fixture
def ensync_engine(ensync_engine_options: Mapping[str, Any]) -> Iterator[ThreadedEngine]:
    """An engine in memory, on free ports, for one test."""
    with _running(ensync_engine_options) as engine:
        yield engine


@pytest.fixture(scope="module")
def ensync_module_engine(ensync_engine_options: Mapping[str, Any]) -> Iterator[ThreadedEngine]:
    """An engine that the tests of a module share."""
    with _running(ensync_engine_options) as engine:
        yield engine


@pytest.fixture(scope="session")
def ensync_session_engine(ensync_engine_options: Mapping[str, Any]) -> Iterator[ThreadedEngine]:
    """An engine that all tests share."""
    with _running(ensync_engine_options) as engine:
        yield engine


@pytest.fixture
def ensync_apps(ensync_engine: ThreadedEngine) -> EngineApps:
    """A sender and a receiver, which are apps of ``ensync_engine``."""
    return ensync_engine.create_apps()


@pytest.fixture(scope="module")
def ensync_module_apps(ensync_module_engine: ThreadedEngine) -> EngineApps:
    """A sender and a receiver, which are apps of ``ensync_module_engine``."""
    return ensync_module_engine.create_apps()


@pytest.fixture(scope="session")
def ensync_session_apps(ensync_session_engine: ThreadedEngine) -> EngineApps:
    """A sender and a receiver, which are apps of ``ensync_session_engine``."""
    return ensync_session_engine.create_apps()


@contextmanager
def _running(options: Mapping[str, Any]) -> Iterator[ThreadedEngine]:
    # Only now: a test run that uses no fixture of these does not pay for the import.
    from ensync.testing import ThreadedEngine

    with ThreadedEngine(**options) as engine:
        yield engine
