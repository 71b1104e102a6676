"""One suite for every engine and transport.

A test that asks for ``target`` runs against any engine (``--engine-url``), unless it
asks for ``engine`` or ``faults`` too, to look into the local engine. Tests that open an
engine of their own are about the local engine as well.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import pytest

import ensync
from ensync.address import parse_address
from ensync.server.local import LocalEngine
from ensync.testing import Faults
from tests.conformance.harness import Keys, Target, address

TRANSPORTS = ("grpc", "websocket")
LOCAL_FIXTURES = {"engine", "faults"}


def engine_url(config: pytest.Config) -> str | None:
    url: str | None = config.getoption("--engine-url")
    return url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transport" not in metafunc.fixturenames or _chooses_transport(metafunc):
        return
    url = engine_url(metafunc.config)
    transports = TRANSPORTS if url is None else (parse_address(url).transport,)
    metafunc.parametrize("transport", transports)


def _chooses_transport(metafunc: pytest.Metafunc) -> bool:
    marks = metafunc.definition.iter_markers("parametrize")
    return any("transport" in mark.args[0] for mark in marks)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if engine_url(config) is None:
        return
    elsewhere = [item for item in items if not _is_local(item)]
    config.hook.pytest_deselected(items=[item for item in items if _is_local(item)])
    items[:] = elsewhere


def _is_local(item: pytest.Item) -> bool:
    fixtures = set[str](getattr(item, "fixturenames", ()))
    if "target" not in fixtures or item.get_closest_marker("local_engine"):
        return True
    return bool(LOCAL_FIXTURES & fixtures)


@pytest.fixture
def event_name() -> str:
    """A name that no other test, and no earlier run, has used."""
    return f"conformance/{uuid.uuid4().hex}"


@pytest.fixture
def faults() -> Faults:
    """What makes the local engine misbehave, and tells which requests it got."""
    return Faults()


@pytest.fixture
async def engine(faults: Faults) -> AsyncIterator[LocalEngine]:
    async with LocalEngine(hooks=faults) as engine:
        yield engine


@pytest.fixture
def target(request: pytest.FixtureRequest, transport: str) -> Target:
    url = engine_url(request.config)
    if url is not None:
        return Target(url, _keys_of_environment(""), _keys_of_environment("OTHER_"))
    engine: LocalEngine = request.getfixturevalue("engine")
    keys, other_keys = (Keys.of(engine.create_app(name)) for name in ("first", "second"))
    return Target(address(engine, transport), keys, other_keys)


def _keys_of_environment(kind: str) -> Keys:
    names = (f"ENSYNC_{kind}APP_KEY", f"ENSYNC_{kind}SECRET_KEY")
    missing = [name for name in names if name not in os.environ]
    if missing:
        pytest.fail(f"--engine-url needs {' and '.join(missing)} in the environment")
    return Keys(*(os.environ[name] for name in names))


@pytest.fixture
async def client(target: Target) -> AsyncIterator[ensync.EnSyncClient]:
    """A client of the first app."""
    async with target.connect() as client:
        yield client


@pytest.fixture
async def other_client(target: Target) -> AsyncIterator[ensync.EnSyncClient]:
    """A client of the second app."""
    async with target.connect(target.other_keys) as client:
        yield client
