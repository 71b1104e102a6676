"""The pytest plugin, in test runs of its own, with each of the plugins for async tests."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.cli.command import SOURCE

pytest_plugins = ["pytester"]

LIMIT = 100.0  # seconds, for a run of pytest on a busy machine
pytestmark = pytest.mark.timeout(LIMIT + 20)

ROOT = Path(__file__).parents[3]
PLUGIN = "pytest_ensync"

# Nothing may be left when the last engine has ended: no thread, no socket. Trio keeps the
# threads of its own for a while.
CONFTEST = """
import os, sys, threading
import pytest

def held():
    threads = {each for each in threading.enumerate() if "Trio thread" not in each.name}
    numbers = os.listdir("/proc/self/fd") if sys.platform == "linux" else ()
    files = {n: os.readlink(p) for n in numbers if os.path.exists(p := f"/proc/self/fd/{n}")}
    return threads, {n for n, name in files.items() if "socket" in name or "event" in name}

@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind():
    before = held()
    yield
    assert held() == before
"""

EXCHANGE = """
import anyio
import pytest

async def exchange(apps, payload="hello"):
    async with (
        apps.sender.connect() as sender,
        apps.receiver.connect("websocket") as receiver,
        receiver.subscribe("greetings") as subscription,
    ):
        await sender.publish("greetings", [receiver.app_id], payload)
        async for event in subscription:
            assert (event.payload, event.sender) == (payload, sender.app_id)
            break
"""

ASYNC_TESTS = """
async def test_function_scope(ensync_engine, ensync_apps):
    await exchange(ensync_apps)
    assert ensync_engine.statistics().published == 1

async def test_function_scope_again(ensync_engine, ensync_apps):
    assert ensync_engine.statistics().published == 0
    await exchange(ensync_apps)

async def test_module_scope(ensync_module_apps):
    await exchange(ensync_module_apps)

async def test_module_scope_again(ensync_module_engine, ensync_module_apps):
    published = ensync_module_engine.statistics().published
    assert published > 0
    await exchange(ensync_module_apps)
    assert ensync_module_engine.statistics().published == published + 1

async def test_session_scope(ensync_session_engine):
    await exchange(ensync_session_engine.create_apps())

async def test_faults(ensync_engine, ensync_apps):
    async with ensync_apps.sender.connect() as client, anyio.create_task_group() as tasks:
        rule = ensync_engine.faults.hold("publish", after_commit=True)
        tasks.start_soon(client.publish, "greetings", [client.app_id], 1)
        await rule.wait()
        await ensync_engine.faults.wait_calls("publish", 1)
        assert (rule.happened, ensync_engine.statistics().published) == (1, 1)
        rule.cancel()

async def test_giving_up_waiting(ensync_engine, ensync_apps):
    with anyio.move_on_after(0.01) as scope:
        await ensync_engine.faults.wait_calls("publish", 1)
    assert scope.cancelled_caught

async def test_restart(ensync_engine, ensync_apps):
    async with ensync_apps.sender.connect() as client:
        await client.publish("greetings", [client.app_id], "kept")
        ensync_engine.faults.abort_connections()
        await ensync_engine.restart(crash=True)
        async with client.subscribe("greetings") as subscription:
            await ensync_engine.faults.wait_streams(1)
            async for event in subscription:
                assert event.payload == "kept"
                break
            ensync_engine.faults.end_streams()
            ensync_engine.faults.goaway()
"""

FOR_ANYIO = """
pytestmark = pytest.mark.anyio

@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

@pytest.fixture(scope="module")
async def client(ensync_module_apps):
    async with ensync_module_apps.sender.connect() as client:
        yield client

async def test_client_of_the_module(client):
    await client.publish("greetings", [client.app_id], 1)

async def test_client_of_the_module_again(client):
    await client.publish("greetings", [client.app_id], 2)
"""

# No fixture for a client here: it would be left in another task than it was entered in.
FOR_ASYNCIO = """
pytestmark = pytest.mark.asyncio(loop_scope="module")
"""

FOR_TRIO = """
pytestmark = pytest.mark.trio

@pytest.fixture
async def client(ensync_module_apps):
    async with ensync_module_apps.sender.connect() as client:
        yield client

async def test_client_of_the_test(client):
    await client.publish("greetings", [client.app_id], 1)
"""

SYNC_TESTS = (
    EXCHANGE
    + """
def test_function_scope(ensync_engine, ensync_apps):
    anyio.run(exchange, ensync_apps)
    assert ensync_engine.statistics().published == 1

def test_trio_and_a_shared_engine(ensync_module_apps, ensync_session_apps):
    for apps in (ensync_module_apps, ensync_session_apps):
        anyio.run(exchange, apps, backend="trio")

def test_looking_into_the_engine(ensync_engine, ensync_apps):
    anyio.run(exchange, ensync_apps)
    counts = ensync_engine.call(ensync_engine.engine.broker.store.count_queues)
    assert [queue.acknowledged for queue in counts] == [1]
    ensync_engine.call(ensync_engine.restart)
    assert ensync_engine.is_running

def test_environment(ensync_apps, monkeypatch):
    import ensync
    for name, value in ensync_apps.sender.environment.items():
        monkeypatch.setenv(name, value)
    async def publish():
        async with ensync.connect() as client:
            await client.publish("greetings", [ensync_apps.receiver.app_id], 1)
    anyio.run(publish)
"""
)

MODULES = {
    "anyio": EXCHANGE + FOR_ANYIO + ASYNC_TESTS,
    "pytest-asyncio": EXCHANGE + FOR_ASYNCIO + ASYNC_TESTS,
    "pytest-trio": EXCHANGE + FOR_TRIO + ASYNC_TESTS,
    "sync": SYNC_TESTS,
}
TESTS = {"anyio": 20, "pytest-asyncio": 8, "pytest-trio": 9}


@pytest.fixture(autouse=True)
def _this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Runs what pytester has written, with warnings as errors. Loads the plugin, if need be."""
    # What is ignored is pytest-asyncio's advice to configure it.
    warnings = ("-W", "error", "-W", "ignore::pytest.PytestDeprecationWarning")
    plugins = ("-p", PLUGIN, "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*plugins, *warnings, *arguments, timeout=LIMIT)


@pytest.mark.parametrize("kind", TESTS)
def test_tests_of_each_kind(pytester: pytest.Pytester, kind: str) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(MODULES[kind])
    run(pytester).assert_outcomes(passed=TESTS[kind])


def test_tests_of_all_kinds_together(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    names = {kind: f"test_{kind.replace('-', '_')}" for kind in MODULES}
    pytester.makepyfile(**{names[kind]: module for kind, module in MODULES.items()})
    outcomes = run(pytester, "-k", "scope or test_sync").parseoutcomes()
    assert set(outcomes) == {"passed", "deselected"}


def test_options_and_a_shared_engine_for_every_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        CONFTEST
        + """
@pytest.fixture(scope="session")
def ensync_engine_options():
    return {"generations": ("event",)}

@pytest.fixture
def ensync_engine(ensync_session_engine):
    return ensync_session_engine
"""
    )
    pytester.makepyfile(
        EXCHANGE
        + """
engines = []

@pytest.mark.parametrize("number", [1, 2])
def test_it(ensync_engine, ensync_apps, number):
    anyio.run(exchange, ensync_apps)
    engines.append(ensync_engine)
    assert ensync_engine.statistics().published == number
    assert len(set(engines)) == 1
"""
    )
    run(pytester).assert_outcomes(passed=2)


def test_a_failure_of_the_engine_is_one_of_the_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
import anyio
import pytest
from ensync.server.broker import Broker
from ensync.server.memory import MemoryStore

async def fail(*arguments):
    raise RuntimeError("a bug in the engine")

def test_in_a_door(ensync_engine, ensync_apps, monkeypatch):
    monkeypatch.setattr(Broker, "publish", fail)
    async def publish():
        async with ensync_apps.sender.connect() as client:
            with pytest.raises(Exception, match="internal error"):
                await client.publish("greetings", [client.app_id], 1)
    anyio.run(publish)

async def fail_when_told(store):
    store.told = anyio.Event()
    await store.told.wait()
    await fail()

@pytest.fixture
def failing_store(monkeypatch):
    monkeypatch.setattr(MemoryStore, "run", fail_when_told)

def test_in_the_background(failing_store, ensync_engine):
    store = ensync_engine.engine.broker.store
    ensync_engine.call(lambda: store.told.set())

def test_the_next_one(ensync_apps):
    pass
"""
    )
    result = run(pytester)
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_in_a_door*",
            "*EnSyncGenericError: the engine has failed meanwhile: internal error in*",
            "*ERROR at teardown of test_in_the_background*",
        ]
    )
    assert result.stdout.str().count("E       RuntimeError: a bug in the engine") == 2


def test_nobody_else_pays_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import sys

def test_it():
    loaded = {name for name in sys.modules if name.partition(".")[0] in HEAVY}
    assert "pytest_ensync" in sys.modules
    assert not loaded

HEAVY = {"ensync", "grpclib", "betterproto2", "nacl", "websockets", "h2", "trio", "pydantic"}
"""
    )
    # Other plugins may well load some of these.
    result = run(pytester, "-p", "no:trio", "-p", "no:anyio", "-p", "no:asyncio")
    result.assert_outcomes(passed=1)


def test_the_time_that_an_engine_takes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import time
from itertools import pairwise
from statistics import median
import pytest

moments = []

@pytest.mark.parametrize("number", range(31))
def test_it(ensync_apps, number):
    moments.append(time.perf_counter())

def test_time_per_test():
    took = [later - earlier for earlier, later in pairwise(moments)]
    print(f"took {median(took) * 1000:.1f} ms, at best {min(took) * 1000:.1f} ms")
"""
    )
    result = run(pytester, "-q", "-s")
    result.assert_outcomes(passed=32)
    [(took, best)] = re.findall(r"took ([0-9.]+) ms, at best ([0-9.]+) ms", result.stdout.str())
    print(f"an engine and two apps for each test: a median of {took} ms")
    # Not the median, which is that of the machine while others are at work on it.
    assert float(best) < 50


def test_pytest_is_told_of_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}
    assert f"src/{PLUGIN}" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def test_ensync_does_without_pytest(pytester: pytest.Pytester) -> None:
    check = "import sys, ensync, ensync.testing; assert 'pytest' not in sys.modules"
    assert pytester.run(sys.executable, "-c", check).ret == 0
