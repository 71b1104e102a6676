"""Settlings that nobody waits for: asked for until there is an answer, or until the stream ends."""

from __future__ import annotations

import pytest

from ensync.connection import Connection
from ensync.errors import EnSyncConnectionError
from ensync.ledger import EventKey
from ensync.repeated_settling import RepeatedSettling
from ensync.transports.base import Defer, Discard, Outcome, Request
from tests.unit.scripted_link import DONE, LOST, ScriptedLink

pytestmark = [pytest.mark.anyio, pytest.mark.mock_clock]

TIMEOUT = 30.0
A, B = EventKey("a", 1), EventKey("b", 2)


def discard(key: EventKey) -> Discard:
    return Discard("orders", key.idem, "")


def defer(key: EventKey) -> Defer:
    return Defer("orders", key.idem, 0, "")


class Bench:
    """One subscription's, over a link that answers when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answers: list[tuple[EventKey, Request, Outcome]] = []
        self.settling = RepeatedSettling(
            timeout=TIMEOUT, clock=lambda: self.now, answered=self._answered
        )

    def _answered(self, key: EventKey, request: Defer | Discard, answer: Outcome) -> None:
        self.answers.append((key, request, answer))

    def attach(self, *, cancelling_ends_it: bool = False) -> tuple[Connection, ScriptedLink]:
        connection = Connection()
        connection.link = link = ScriptedLink(cancelling_ends_it=cancelling_ends_it)
        self.settling.attached(connection)
        return connection, link


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def asked(link: ScriptedLink) -> list[Request]:
    return [call.request for call in link.calls]


async def test_answered(bench: Bench) -> None:
    _, link = bench.attach()
    bench.settling.add(A, discard(A))
    bench.settling.add(B, defer(B))
    assert asked(link) == [discard(A), defer(B)]
    link.answer(DONE)
    link.answer(Outcome(False, "no"))
    assert bench.answers == [(A, discard(A), DONE), (B, defer(B), Outcome(False, "no"))]
    bench.settling.retry()
    assert not link.calls


async def test_without_a_stream_they_wait_for_one(bench: Bench) -> None:
    bench.settling.add(A, discard(A))
    bench.settling.retry()
    _, link = bench.attach()
    assert asked(link) == [discard(A)]


async def test_what_had_no_answer_is_asked_for_again(bench: Bench) -> None:
    _, link = bench.attach()
    bench.settling.add(A, discard(A))
    link.answer(EnSyncConnectionError("not now"))
    assert not link.calls
    bench.settling.retry()
    assert asked(link) == [discard(A)]
    link.answer(DONE)
    assert len(bench.answers) == 1


async def test_what_has_no_answer_in_time_is_asked_for_again(bench: Bench) -> None:
    _, link = bench.attach()
    bench.settling.add(A, defer(A))
    (first,) = link.calls
    bench.now = TIMEOUT - 1
    bench.settling.retry()
    assert link.calls == [first]
    bench.now = TIMEOUT
    bench.settling.retry()
    (second,) = link.calls
    assert second is not first
    first.on_reply(DONE)
    assert not bench.answers
    second.on_reply(DONE)
    assert len(bench.answers) == 1


async def test_giving_up_may_end_the_link(bench: Bench) -> None:
    _, link = bench.attach(cancelling_ends_it=True)
    bench.settling.add(A, defer(A))
    bench.now = 1
    bench.settling.add(B, defer(B))
    bench.now = TIMEOUT
    bench.settling.retry()
    assert not bench.answers
    assert sorted(asked(link)) == [defer(A), defer(B)]


async def test_an_engine_that_does_not_know_the_client_loses_it(bench: Bench) -> None:
    connection, link = bench.attach()
    bench.settling.add(A, discard(A))
    link.answer(Outcome(False, "who are you?", unauthenticated=True))
    assert connection.is_lost
    assert not bench.answers
    assert bench.settling.detached() == [A]


async def test_with_the_stream_all_is_forgotten(bench: Bench) -> None:
    _, link = bench.attach()
    bench.settling.add(A, discard(A))
    link.answer(LOST)
    bench.settling.add(B, defer(B))
    bench.settling.add(A, discard(A))
    link.answer(LOST)
    assert sorted(bench.settling.detached()) == [A, B]
    late = link.calls
    _, link = bench.attach()
    assert not link.calls
    for call in late:
        call.on_reply(DONE)
    assert not bench.answers
