"""How long leaving subscriptions may wait: each its time, and for nobody but once."""

from __future__ import annotations

import anyio
import pytest

from ensync.draining import Draining

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]

TIMEOUT = 5.0


class Bench:
    def __init__(self) -> None:
        self.progress = 0
        self.draining = Draining(TIMEOUT, lambda: self.progress)

    async def leave(self, *, needs: float = 1000, has_link: bool) -> float:
        """Leaves what is confirmed after so many seconds; returns how long it took."""
        began = anyio.current_time()
        with self.draining.bounded(has_link=has_link):
            await anyio.sleep(needs)
            self.progress += 1
        return anyio.current_time() - began


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_each_has_its_time_as_long_as_the_engine_answers(bench: Bench) -> None:
    for _ in range(10):
        assert await bench.leave(needs=4, has_link=True) == 4


@pytest.mark.parametrize("has_link", [True, False])
async def test_an_engine_that_is_gone_or_silent_is_waited_for_once(
    bench: Bench, has_link: bool
) -> None:
    assert await bench.leave(has_link=has_link) == TIMEOUT
    for _ in range(300):
        assert await bench.leave(has_link=has_link) == 0


async def test_what_is_silent_first_and_gone_then_is_waited_for_once(bench: Bench) -> None:
    assert await bench.leave(has_link=True) == TIMEOUT
    assert await bench.leave(has_link=False) == 0


async def test_leaves_without_a_link_share_what_is_left_of_the_time(bench: Bench) -> None:
    assert await bench.leave(needs=0, has_link=False) == 0
    bench.progress = 0  # nothing was there to be confirmed
    await anyio.sleep(2)
    assert await bench.leave(has_link=False) == TIMEOUT - 2


async def test_a_new_link_is_worth_waiting_for(bench: Bench) -> None:
    assert await bench.leave(has_link=False) == TIMEOUT
    bench.draining.has_new_link()
    assert await bench.leave(needs=4, has_link=True) == 4


async def test_a_new_link_to_an_engine_that_was_silent_is_not(bench: Bench) -> None:
    assert await bench.leave(has_link=True) == TIMEOUT
    bench.draining.has_new_link()
    assert await bench.leave(has_link=True) == 0


@pytest.mark.parametrize("has_link", [True, False])
async def test_whatever_is_confirmed_gives_hope_again(bench: Bench, has_link: bool) -> None:
    assert await bench.leave(has_link=has_link) == TIMEOUT
    bench.progress += 1
    assert await bench.leave(has_link=has_link) == TIMEOUT


async def test_so_does_a_wait_in_which_something_was_confirmed(bench: Bench) -> None:
    async def others_are_confirmed() -> None:
        await anyio.sleep(1)
        bench.progress += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others_are_confirmed)
        assert await bench.leave(has_link=True) == TIMEOUT
    assert await bench.leave(needs=4, has_link=True) == 4


async def test_what_is_left_much_later_has_its_time(bench: Bench) -> None:
    assert await bench.leave(has_link=True) == TIMEOUT
    await anyio.sleep(TIMEOUT + 1)
    assert await bench.leave(needs=4, has_link=True) == 4


async def test_a_cancellation_from_around_it_does_not_cut_it_short(bench: Bench) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await bench.leave(needs=4, has_link=True) == 4
