"""Requests that nobody waits for: answered once, or given up in time."""

from __future__ import annotations

import anyio
import pytest

from ensync.deadlines import Deadlines
from ensync.errors import EnSyncError, EnSyncTimeoutError
from ensync.telling import tell
from ensync.transports.base import Call, Discard, Outcome, ReplyCallback, Request
from tests.unit.scripted_link import DONE, LOST, ScriptedLink

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]

REQUEST = Discard("orders", "idem", "")
TIMEOUT = 30.0


class PromptLink(ScriptedLink):
    """Answers before send() returns."""

    def send(self, request: Request, on_reply: ReplyCallback) -> Call:
        call = super().send(request, on_reply)
        self.answer(DONE)
        return call


async def told(link: ScriptedLink, answer: Outcome | EnSyncError | None) -> list[object]:
    """What is told of one request, by long after its deadline."""
    answers: list[object] = []
    in_time: list[object] = []
    deadlines = Deadlines()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deadlines.run)
        at = anyio.current_time() + TIMEOUT
        tell(link, REQUEST, answers.append, deadlines=deadlines, at=at)
        await anyio.sleep(TIMEOUT - 1)
        if answer is not None:
            link.answer(answer)
        in_time.extend(answers)
        assert any(deadlines._buckets.values()) == (not answers), "what is over is forgotten"
        await anyio.sleep(TIMEOUT)
        tasks.cancel_scope.cancel()
    assert len(answers) == 1
    assert in_time == answers or isinstance(answers[0], EnSyncTimeoutError)
    assert not link.calls
    return answers


@pytest.mark.parametrize("answer", [DONE, Outcome(False, "no"), LOST])
async def test_answered(answer: Outcome | EnSyncError) -> None:
    assert await told(ScriptedLink(), answer) == [answer]


async def test_answered_at_once() -> None:
    assert await told(PromptLink(), None) == [DONE]


@pytest.mark.parametrize("cancelling_ends_it", [False, True])
async def test_without_an_answer_it_is_given_up(cancelling_ends_it: bool) -> None:
    (answer,) = await told(ScriptedLink(cancelling_ends_it=cancelling_ends_it), None)
    assert isinstance(answer, EnSyncTimeoutError)
