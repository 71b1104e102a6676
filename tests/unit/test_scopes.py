"""Scopes that own tasks let a single error out bare."""

from __future__ import annotations

import traceback

import anyio
import pytest

from ensync.scopes import background_tasks, single_error_bare

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
