from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensync.server.schedule import Schedule

KEYS = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 50)),
        st.tuples(st.just("drop"), KEYS, st.just(0)),
        st.tuples(st.just("take"), st.just(""), st.integers(0, 60)),
    )
)


@given(STEPS)
def test_it_agrees_with_a_plain_dict(steps: list[tuple[str, str, int]]) -> None:
    schedule, model = Schedule(), dict[str, int]()
    for step, key, time in steps:
        if step == "put":
            schedule.put(key, time)
            model[key] = time
        elif step == "drop":
            schedule.drop(key)
            model.pop(key, None)
        else:
            due = sorted((due, key) for key, due in model.items() if due <= time)
            assert schedule.take_due(time) == [key for _, key in due]
            for _, taken in due:
                del model[taken]
        assert len(schedule) == len(model)
        assert schedule.next_due_ms() == min(model.values(), default=None)


def test_moving_a_key_for_ever_takes_no_memory() -> None:
    schedule = Schedule()
    for due_ms in range(10_000):
        schedule.put("key", due_ms)
        assert len(schedule._heap) < 100


@pytest.mark.anyio
@pytest.mark.mock_clock
async def test_run_calls_when_a_key_is_due() -> None:
    schedule = Schedule()
    called: list[tuple[list[str], float]] = []

    def now_ms() -> int:
        return round(anyio.current_time() * 1000)

    def when_due() -> None:
        called.append((schedule.take_due(now_ms()), anyio.current_time()))

    async with anyio.create_task_group() as tasks:
        schedule.put("first", 10_000)
        tasks.start_soon(schedule.run, now_ms, when_due)
        await anyio.sleep(1)
        schedule.put("sooner", 5_000)
        schedule.put("dropped", 3_000)
        schedule.drop("dropped")
        await anyio.sleep(100)
        schedule.put("overdue", 50_000)
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert called == [(["sooner"], 5), (["first"], 10), (["overdue"], 101)]
