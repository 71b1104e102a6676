"""Requests that the engine says it has not heard, and those of which nobody knows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from ensync.connection import ClientState
from ensync.crypto import SecretKey
from ensync.errors import EnSyncPublishError, EnSyncTimeoutError
from ensync.transports.base import Continue, Heartbeat, Pause, Publish
from tests.unit.scripted_link import UNHEARD
from tests.unit.scripted_program import BACK_OFF, HEARTBEAT, KEPT, Program

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]

RECIPIENT = SecretKey.generate().app_id


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    async with Program().working() as program:
        yield program


async def test_a_publish_is_sent_again(program: Program) -> None:
    program.engine.replies[Publish].extend([UNHEARD] * 3)
    receipt = await program.client.publish("n", [RECIPIENT], 1)
    assert receipt.event_id
    assert program.engine.count(Publish) == 4
    assert len(program.engine.links) == 1


async def test_a_publish_that_is_never_heard_is_rejected_by_its_deadline(program: Program) -> None:
    program.engine.replies[Publish].extend([UNHEARD] * 1000)
    begin = anyio.current_time()
    with pytest.raises(EnSyncPublishError) as caught:
        await program.client.publish("n", [RECIPIENT], 1, timeout=5)
    assert set(caught.value.rejected) == {RECIPIENT}
    assert caught.value.__cause__ is UNHEARD
    assert anyio.current_time() - begin <= 5
    sent = program.engine.count(Publish)
    await anyio.sleep(BACK_OFF)
    assert program.engine.count(Publish) == sent


async def test_an_unheard_heartbeat_is_a_sign_of_life(program: Program) -> None:
    program.engine.replies[Heartbeat].append(UNHEARD)
    await anyio.sleep(3 * HEARTBEAT)
    assert program.session.state is ClientState.CONNECTED
    assert len(program.engine.links) == 1


async def test_a_pause_that_can_not_be_restored_is_no_reason_to_register_again(
    program: Program,
) -> None:
    program.engine.replies[Pause].extend([EnSyncTimeoutError("late")] * 2)
    program.engine.lose()
    await anyio.sleep(BACK_OFF + 1)
    link = program.engine.link
    stream = link.streams[KEPT]
    await anyio.sleep(2 * BACK_OFF)
    assert link.streams[KEPT] is stream
    assert link.paused == {KEPT}


async def test_of_a_pause_that_was_given_up_nothing_is_left(program: Program) -> None:
    await program.kept.resume()
    program.engine.hold(Pause)
    before = program.engine.count(Continue)
    with anyio.move_on_after(1):
        await program.kept.pause()
    assert not program.kept.is_paused
    program.engine.heal()
    await anyio.wait_all_tasks_blocked()
    # The engine may have heard it.
    assert program.engine.count(Continue) == before + 1
    assert not program.engine.link.paused
