"""One event to several recipients: each copy has its own outcome, and its own second try."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
import trio

from ensync.connection import ClientState
from ensync.crypto import SecretKey
from ensync.errors import EnSyncError, EnSyncPublishError, EnSyncTimeoutError
from ensync.transports.base import Outcome, Publish
from tests.unit.scripted_link import UNHEARD, SentCall
from tests.unit.scripted_program import BACK_OFF, Program

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]

RECIPIENTS = [SecretKey.generate().app_id for _ in range(3)]
FIRST, SECOND, THIRD = RECIPIENTS
FORGOTTEN = Outcome(False, "who are you", unauthenticated=True)


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    async with Program().working() as program:
        yield program


def asked_for(program: Program) -> list[str]:
    requests = program.engine.requests
    return [request.recipient for request in requests if isinstance(request, Publish)]


def publishes_under_way(program: Program) -> list[SentCall]:
    return [call for call in program.engine.link.calls if isinstance(call.request, Publish)]


def answer(program: Program, call: SentCall, reply: Outcome | EnSyncError) -> None:
    program.engine.link.calls.remove(call)
    call.sent = reply is not UNHEARD
    call.on_reply(reply)


async def test_the_receipt_names_them_in_their_order(program: Program) -> None:
    receipt = await program.client.publish("n", RECIPIENTS, 1)
    assert list(receipt.event_ids) == RECIPIENTS
    assert asked_for(program) == RECIPIENTS


async def test_only_what_was_not_heard_is_sent_again(program: Program) -> None:
    program.engine.replies[Publish].extend([Outcome(True, idem="1"), UNHEARD])
    receipt = await program.client.publish("n", RECIPIENTS, 1)
    assert asked_for(program) == [*RECIPIENTS, SECOND]
    assert list(receipt.event_ids) == RECIPIENTS
    assert len(program.engine.links) == 1


async def test_only_what_the_engine_did_not_do_for_a_stranger_is_sent_again(
    program: Program,
) -> None:
    program.engine.replies[Publish].extend([Outcome(True, idem="1"), FORGOTTEN, FORGOTTEN])
    receipt = await program.client.publish("n", RECIPIENTS, 1, timeout=2 * BACK_OFF)
    assert asked_for(program) == [*RECIPIENTS, SECOND, THIRD]
    assert receipt.event_ids[FIRST] == "1"
    assert len(program.engine.links) == 2


async def test_what_is_never_heard_is_rejected_and_the_rest_is_accepted(program: Program) -> None:
    program.engine.replies[Publish].extend([Outcome(True, idem="1"), UNHEARD])
    program.engine.replies[Publish].extend([Outcome(True, idem="3"), *[UNHEARD] * 1000])
    begin = anyio.current_time()
    with pytest.raises(EnSyncPublishError) as caught:
        await program.client.publish("n", RECIPIENTS, 1, timeout=5)
    assert caught.value.accepted == {FIRST: "1", THIRD: "3"}
    assert caught.value.rejected == {SECOND: UNHEARD}
    assert not caught.value.unknown
    assert anyio.current_time() - begin <= 5


async def test_what_has_no_answer_is_unknown_and_the_rest_is_accepted(program: Program) -> None:
    program.engine.hold(Publish)
    begin = anyio.current_time()

    async def answer_two() -> None:
        await anyio.wait_all_tasks_blocked()
        first, _, third = publishes_under_way(program)
        for call in (first, third):
            answer(program, call, Outcome(True, idem="accepted"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_two)
        with pytest.raises(EnSyncPublishError) as caught:
            await program.client.publish("n", RECIPIENTS, 1, timeout=5)
        assert caught.value.accepted == {FIRST: "accepted", THIRD: "accepted"}
        assert list(caught.value.unknown) == [SECOND]
    assert anyio.current_time() - begin == pytest.approx(5, abs=0.1)
    assert publishes_under_way(program) == []


async def test_what_was_not_heard_does_not_wait_for_what_has_no_answer(program: Program) -> None:
    program.engine.hold(Publish)

    async def refuse_the_first_unheard() -> None:
        await anyio.wait_all_tasks_blocked()
        answer(program, publishes_under_way(program)[0], UNHEARD)
        await anyio.sleep(1)
        *_, again = publishes_under_way(program)
        assert isinstance(again.request, Publish)
        assert again.request.recipient == FIRST
        answer(program, again, Outcome(True, idem="second try"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refuse_the_first_unheard)
        with pytest.raises(EnSyncPublishError) as caught:
            await program.client.publish("n", RECIPIENTS, 1, timeout=5)
        assert caught.value.accepted == {FIRST: "second try"}
        assert list(caught.value.unknown) == [SECOND, THIRD]


async def test_a_client_that_the_engine_has_forgotten_connects_anew_at_once(
    program: Program,
) -> None:
    program.engine.hold(Publish)

    async def forget() -> None:
        await anyio.wait_all_tasks_blocked()
        answer(program, publishes_under_way(program)[0], FORGOTTEN)
        await anyio.sleep(2)
        assert program.session.state is ClientState.RECONNECTING
        assert not program.engine.open_links
        program.engine.heal()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forget)
        with pytest.raises(EnSyncPublishError) as caught:
            await program.client.publish("n", RECIPIENTS, 1, timeout=2 * BACK_OFF)
        assert list(caught.value.accepted) == [FIRST]
        assert list(caught.value.unknown) == [SECOND, THIRD]


async def test_what_a_forgetful_engine_is_about_to_answer_is_sent_again_too(
    program: Program,
) -> None:
    program.engine.hold(Publish)

    async def forget() -> None:
        await anyio.wait_all_tasks_blocked()
        for call in publishes_under_way(program):
            answer(program, call, FORGOTTEN)
            await anyio.sleep(0.01)
        program.engine.heal()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forget)
        receipt = await program.client.publish("n", RECIPIENTS, 1, timeout=2 * BACK_OFF)
        assert list(receipt.event_ids) == RECIPIENTS
        assert len(program.engine.links) == 2


async def test_all_that_are_late_are_late_for_the_same_reason(program: Program) -> None:
    program.engine.hold(Publish)
    program.engine.link.cancelling_ends_it = True  # as over WebSocket
    with pytest.raises(EnSyncPublishError) as caught:
        await program.client.publish("n", RECIPIENTS, 1, timeout=5)
    assert {type(error) for error in caught.value.unknown.values()} == {EnSyncTimeoutError}


async def test_without_a_link_in_time_all_are_rejected(program: Program) -> None:
    program.engine.lose()
    with pytest.raises(EnSyncPublishError) as caught:
        await program.client.publish("n", RECIPIENTS, 1, timeout=BACK_OFF / 2)
    assert list(caught.value.rejected) == RECIPIENTS
    assert asked_for(program) == []


async def test_a_cancelled_publish_gives_all_of_them_up(program: Program) -> None:
    program.engine.hold(Publish)
    with anyio.move_on_after(1) as scope:
        await program.client.publish("n", RECIPIENTS, 1)
    assert scope.cancelled_caught
    assert publishes_under_way(program) == []


async def test_recipients_cost_no_task_each(program: Program) -> None:
    program.engine.hold(Publish)
    async with anyio.create_task_group() as tasks:
        before = trio.lowlevel.current_statistics().tasks_living
        tasks.start_soon(program.client.publish, "n", RECIPIENTS, 1)
        await anyio.wait_all_tasks_blocked()
        assert len(program.engine.link.calls) == len(RECIPIENTS)
        assert trio.lowlevel.current_statistics().tasks_living == before + 1
        program.engine.heal()


async def test_of_what_was_answered_no_deadline_is_left(program: Program) -> None:
    await program.client.publish("n", RECIPIENTS, 1)
    buckets = program.session._deadlines._buckets
    assert not any(buckets.values())
