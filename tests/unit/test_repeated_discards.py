"""Discards that nobody waits for: asked for until there is an answer, within reason."""

from __future__ import annotations

import pytest

from ensync.connection import Connection
from ensync.errors import EnSyncTimeoutError
from ensync.ledger import EventKey
from ensync.repeated_discards import RepeatedDiscards
from ensync.transports.base import Discard, Outcome, ReplyCallback, Request
from tests.unit.scripted_link import DONE, LOST, ScriptedLink

pytestmark = pytest.mark.anyio

A, B, C = (EventKey(idem, number) for number, idem in enumerate("abc"))
LATE = EnSyncTimeoutError("late")


class Bench:
    """One subscription's, over a link that answers when it is told to."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.discards = RepeatedDiscards("orders", self._tell, self.refusals.append)
        self.attach()

    def attach(self) -> None:
        self.connection = Connection()
        self.connection.link = self.link = ScriptedLink()
        self.discards.attached(self.connection)

    def _tell(self, connection: Connection, request: Request, on_answer: ReplyCallback) -> None:
        assert connection is self.connection
        self.link.send(request, on_answer)

    @property
    def asked(self) -> list[str]:
        requests = [call.request for call in self.link.calls]
        return [request.idem for request in requests if isinstance(request, Discard)]


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_answered(bench: Bench) -> None:
    for key in (A, B):
        bench.discards.add(key)
    assert bench.asked == ["a", "b"]
    bench.link.answer(DONE)
    bench.link.answer(Outcome(False, "it was discarded already"))
    bench.discards.retry()
    assert not bench.asked
    assert not bench.refusals


async def test_refused(bench: Bench) -> None:
    bench.discards.add(A)
    bench.link.answer(Outcome(False, "no"))
    bench.discards.retry()
    assert not bench.asked
    assert bench.refusals == ["no"]


async def test_one_is_asked_for_once_at_a_time(bench: Bench) -> None:
    for _ in range(3):
        bench.discards.add(A)
    assert bench.asked == ["a"]


async def test_an_engine_that_does_not_know_the_client_loses_it(bench: Bench) -> None:
    bench.discards.add(A)
    bench.link.answer(Outcome(False, "who are you?", unauthenticated=True))
    assert bench.connection.is_lost
    assert not bench.refusals


async def test_what_had_no_answer_is_asked_for_again(bench: Bench) -> None:
    bench.discards.add(A)
    bench.link.answer(LOST)
    assert not bench.asked
    bench.discards.retry()
    assert bench.asked == ["a"]


async def test_with_the_stream_all_is_forgotten(bench: Bench) -> None:
    bench.discards.add(A)
    late = bench.link.calls[0]
    bench.discards.detached()
    late.on_reply(LOST)
    bench.attach()
    assert not bench.asked
    bench.discards.add(A)  # as the engine hands it out again
    assert bench.asked == ["a"]


async def test_an_engine_that_never_answers_is_asked_no_more(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for key in (A, B, C):
        bench.discards.add(key)
        bench.link.answer(LATE)
    while bench.link.calls:
        bench.link.answer(LATE)
    bench.discards.retry()
    bench.discards.add(A)
    assert not bench.asked
    assert len(caplog.records) == 1
    assert "'orders'" in caplog.text


async def test_an_engine_that_answers_now_and_then_is_asked_on(bench: Bench) -> None:
    for answer in (LATE, LATE, DONE, LATE, LATE, LOST, LOST):
        bench.discards.retry()
        bench.discards.add(A)
        bench.link.answer(answer)
        while bench.link.calls:
            bench.link.answer(LOST)
    bench.discards.retry()
    assert bench.asked == ["a"]
