"""A test that leaves something behind fails; one that does not, passes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"

SETTINGS = """
[pytest]
asyncio_default_fixture_loop_scope = function
filterwarnings = error
markers =
  all_loops
  mock_clock
"""
LEAKS = """
import asyncio, socket
import anyio, pytest, trio

kept = []

@pytest.mark.anyio
async def test_tidy():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)

@pytest.mark.anyio
async def test_leaves_a_task(anyio_backend_name):
    if anyio_backend_name == "trio":
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
    else:
        kept.append(asyncio.create_task(asyncio.sleep(3600)))

@pytest.mark.anyio
async def test_leaves_a_file():
    kept.append(socket.socket())

@pytest.mark.anyio
async def test_forgets_to_close():
    circle = [socket.socket()]
    circle.append(circle)

@pytest.mark.anyio
async def test_never_awaits():
    anyio.sleep(1)

@pytest.mark.mock_clock
@pytest.mark.anyio
async def test_an_hour_costs_nothing():
    started = anyio.current_time()
    await anyio.sleep(3600)
    assert anyio.current_time() == started + 3600

@pytest.mark.all_loops
@pytest.mark.anyio
async def test_everywhere(): pass
"""


def test_leaks_are_found_on_every_backend(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(test_leaks=LEAKS)
    pytester.makeini(SETTINGS)
    result = pytester.runpytest_subprocess("-v", "-p", "no:cacheprovider")
    for backend in ("asyncio", "trio"):
        result.stdout.fnmatch_lines_random(
            [
                f"*::test_tidy[[]{backend}] PASSED*",
                f"ERROR *::test_leaves_a_task[[]{backend}] - *tasks left*",
                f"ERROR *::test_leaves_a_file[[]{backend}] - *files left*",
                f"ERROR *::test_forgets_to_close[[]{backend}] - *Unraisable*",
                f"FAILED *::test_never_awaits[[]{backend}] - *Unraisable*",
            ]
        )
    for test in ("test_an_hour_costs_nothing[[]trio-mock-clock]", "test_everywhere[[]uvloop]"):
        result.stdout.fnmatch_lines([f"*::{test} PASSED*"])
