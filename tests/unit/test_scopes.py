"""Scopes that own tasks let a single error out bare."""

from __future__ import annotations

import traceback
from typing import Any

import anyio
import pytest

from ensync.scopes import background_tasks, single_error_bare, until_cancelled
from ensync.transports.bridge import open_asyncio_side

pytestmark = pytest.mark.anyio


async def fail(error: Exception) -> None:
    raise error


async def test_one_error_is_bare_and_keeps_its_cause() -> None:
    cause = KeyError("the cause")
    with pytest.raises(LookupError) as caught:
        async with single_error_bare(), anyio.create_task_group():
            raise LookupError from cause
    assert caught.value.__cause__ is cause
    assert "ExceptionGroup" not in "".join(traceback.format_exception(caught.value))


async def test_two_errors_stay_a_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with background_tasks() as tasks:
            tasks.start_soon(fail, ValueError())
            raise KeyError
    assert {type(error) for error in caught.value.exceptions} == {ValueError, KeyError}


async def test_an_error_of_a_task_is_bare() -> None:
    with pytest.raises(ValueError, match="in a task"):
        async with background_tasks() as tasks:
            tasks.start_soon(fail, ValueError("in a task"))
            await anyio.sleep_forever()


async def test_background_tasks_end_with_the_block() -> None:
    with anyio.fail_after(5):
        async with background_tasks() as tasks:
            tasks.start_soon(anyio.sleep_forever)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_waiting_for_the_end_leaves_no_timer_on_trios_asyncio_side() -> None:
    async with open_asyncio_side() as side:
        loop: Any = side._loop
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(side.run, until_cancelled)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert not loop._timers
