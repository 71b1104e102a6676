"""How every test runs: on which backends, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any

import anyio.lowlevel
import hypothesis
import pytest
import trio.testing

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import trio_asyncio  # noqa: F401 # pyright: ignore[reportUnusedImport]

from ensync.transports import bridge

# Some tests import it before ensync does. On asyncio they are to run on asyncio all the same.
bridge._leave_asyncio_programs_alone()

# A run in the background of a script may have been told to ignore Ctrl-C. Commands that tests
# start would inherit that, and some are there to be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where nothing may be written beside the sources, each of these commands would compile all of
# them: that is half of its time.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="ensync-tests-bytecode-")
    atexit.register(shutil.rmtree, os.environ["PYTHONPYCACHEPREFIX"], ignore_errors=True)

# A slow machine is not a failure; pytest-timeout bounds every test.
hypothesis.settings.register_profile("ensync", deadline=None, max_examples=50)
hypothesis.settings.load_profile("ensync")

Backend = tuple[str, dict[str, Any]]

EAGER_BACKENDS: dict[str, Backend] = {}
if sys.version_info >= (3, 12):

    def _eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    EAGER_BACKENDS["eager"] = ("asyncio", {"loop_factory": _eager_loop})

# Closing a transport takes asyncio a few turns of its loop, and never more.
TURNS_TO_SETTLE = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine-url",
        default=None,
        help="run the conformance suite against this engine, with the keys of two apps from "
        "ENSYNC_APP_KEY, ENSYNC_SECRET_KEY, ENSYNC_OTHER_APP_KEY and ENSYNC_OTHER_SECRET_KEY",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    # Many tests wait for a time that must pass, or for another process.
    return (os.cpu_count() or 1) + 1


def _backends(item: Callable[[str], object]) -> dict[str, Backend]:
    """The backends of one test, by name; ``item`` looks a marker up."""
    if item("mock_clock"):
        # Made anew for each test, so that each begins at its own zero.
        return {"trio-mock-clock": ("trio", {"clock": trio.testing.MockClock(0, 0)})}
    backends: dict[str, Backend] = {
        # Named, because trio-asyncio has its own loop made where none is, once it is imported.
        "asyncio": ("asyncio", {"loop_factory": asyncio.SelectorEventLoop}),
        "trio": ("trio", {}),
    }
    if item("all_loops"):
        backends["uvloop"] = ("asyncio", {"use_uvloop": True})
        backends |= EAGER_BACKENDS
    return backends


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" not in metafunc.fixturenames:
        return
    definition = metafunc.definition
    if any("anyio_backend" in mark.args[0] for mark in definition.iter_markers("parametrize")):
        return
    backends = _backends(definition.get_closest_marker)
    metafunc.parametrize(
        "anyio_backend", backends.values(), ids=backends.keys(), scope="module", indirect=True
    )


@pytest.fixture
def no_name_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host name is known, and no server is asked about one, which may take its time."""

    def not_known(*_args: object, **_keywords: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", not_known)


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


def pytest_collection_finish() -> None:
    _freeze_what_stays()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        _freeze_what_stays()
    return result


def _freeze_what_stays() -> None:
    # What is alive between modules stays alive, and need not be looked at again: after some
    # thousand tests, a collection would take a hundred times as long, and there is one for each.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> None:
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("leak_census")


@pytest.fixture
async def leak_census() -> AsyncIterator[None]:
    """Fails a test that leaves a task or an open file behind, or an unclosed resource."""
    tasks, files = set(live_tasks()), open_files()
    yield
    gc.collect()  # an unclosed resource warns now, and a warning is an error
    for _ in range(TURNS_TO_SETTLE):
        if not _new(live_tasks(), tasks) and not _new(open_files(), files):
            return
        await anyio.lowlevel.checkpoint()
    assert not _new(live_tasks(), tasks), "tasks left behind"
    assert not _new(open_files(), files), "files left open"


def _new(now: Iterable[object], before: Iterable[object]) -> list[object]:
    return [item for item in now if item not in before]


def live_tasks() -> list[object]:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        return [task for task in asyncio.all_tasks() if not _is_of_test_runner(task)]
    return _descendants(root) if root else []


def _is_of_test_runner(task: asyncio.Task[Any]) -> bool:
    return "TestRunner." in getattr(task.get_coro(), "__qualname__", "")


def _descendants(task: trio.lowlevel.Task) -> list[object]:
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [task, *(one for child in children for one in _descendants(child))]


def open_files() -> dict[str, str]:
    """Descriptors and what they are; empty where the system does not tell."""
    files: dict[str, str] = {}
    for number in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            files[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    # uvloop opens one with its first listener, to have one to spare when they run out.
    return {number: name for number, name in files.items() if name != os.devnull}
