"""Requests under way together: each is answered once, or given up when the time is over."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import pytest

from ensync.connection import Connection
from ensync.deadlines import Deadlines
from ensync.errors import EnSyncError, EnSyncTimeoutError
from ensync.exchanges import Exchange, Exchanges
from ensync.transports.base import Acknowledge, Call, Outcome, Publish, ReplyCallback, Request
from ensync.transports.bridge import latch_type
from tests.unit.scripted_link import DONE, LOST, ScriptedLink, SentCall

pytestmark = pytest.mark.anyio

REQUESTS = [Acknowledge("n", str(number), number) for number in range(3)]


def scope() -> Exchanges[Acknowledge]:
    exchanges: Exchanges[Acknowledge] = Exchanges(latch_type())
    Deadlines().add(0, exchanges)  # which expires when a test says so
    return exchanges


def over(link: ScriptedLink) -> Connection:
    connection = Connection()
    connection.link = link
    return connection


def results(exchanges: Iterable[Exchange[Acknowledge]]) -> dict[str, Outcome | EnSyncError]:
    return {exchange.request.idem: exchange.answer.result for exchange in exchanges}


class FirstAtOnce(ScriptedLink):
    """Answers the first request before send() returns."""

    def send(self, request: Request, on_reply: ReplyCallback) -> Call:
        call = super().send(request, on_reply)
        if request == REQUESTS[0]:
            self.answer(DONE)
        return call


class OnePlace(ScriptedLink):
    """Sends one request at a time: the next when the one before is over."""

    def __init__(self) -> None:
        super().__init__()
        self.ever_sent: list[Request] = []

    def send(self, request: Request, on_reply: ReplyCallback) -> Call:
        call = OneOfAQueue(self, request, on_reply)
        self.calls.append(call)
        self.send_first()
        return call

    def send_first(self) -> None:
        if self.calls and not self.calls[0].sent:
            self.calls[0].sent = True
            self.ever_sent.append(self.calls[0].request)


class OneOfAQueue(SentCall):
    def __init__(self, link: OnePlace, request: Request, on_reply: ReplyCallback) -> None:
        super().__init__(link, request, on_reply)
        self.sent = False
        self._queue = link

    def cancel(self) -> None:
        super().cancel()
        self._queue.send_first()


async def test_success_is_waited_for_until_all_have_it() -> None:
    link = ScriptedLink()
    with scope() as exchanges, anyio.fail_after(5):
        await exchanges.send(over(link), REQUESTS)
        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                for _ in REQUESTS:
                    await anyio.wait_all_tasks_blocked()
                    link.answer(DONE)

            tasks.start_soon(answer)
            assert results(await exchanges.answers()) == {"0": DONE, "1": DONE, "2": DONE}


async def test_what_came_to_nothing_is_told_at_once_and_the_rest_later() -> None:
    link = ScriptedLink()
    with scope() as exchanges, anyio.fail_after(5):
        await exchanges.send(over(link), REQUESTS)
        link.answer(DONE)
        link.answer(LOST)
        assert results(await exchanges.answers()) == {"0": DONE, "1": LOST}
        link.answer(DONE)
        assert results(await exchanges.answers()) == {"2": DONE}


async def test_an_answer_may_come_before_the_request_is_known() -> None:
    link = FirstAtOnce()
    found: dict[str, Outcome | EnSyncError] = {}
    with scope() as exchanges, anyio.fail_after(5):
        await exchanges.send(over(link), REQUESTS)
        link.answer_all(DONE)
        while len(found) < len(REQUESTS):
            found |= results(await exchanges.answers())
    assert found == {"0": DONE, "1": DONE, "2": DONE}


@pytest.mark.parametrize("cancelling_ends_it", [False, True])
async def test_what_is_late_is_given_up(cancelling_ends_it: bool) -> None:
    link = ScriptedLink(cancelling_ends_it=cancelling_ends_it)
    with scope() as exchanges, anyio.fail_after(5):
        await exchanges.send(over(link), REQUESTS)
        link.answer(DONE)
        exchanges.expire()
        found = results(await exchanges.answers())
        assert found.pop("0") == DONE
        assert [type(error) for error in found.values()] == [EnSyncTimeoutError] * 2
        assert link.calls == []


@pytest.mark.parametrize("late", [False, True], ids=["left", "late"])
async def test_what_was_not_sent_is_not_sent_when_all_are_given_up(late: bool) -> None:
    link = OnePlace()
    with scope() as exchanges, anyio.fail_after(5):
        await exchanges.send(over(link), REQUESTS)
        if late:
            exchanges.expire()
            ended = await exchanges.answers()
            assert {each.request.idem: each.answer.sent for each in ended} == {
                "0": True,
                "1": False,
                "2": False,
            }
    assert link.ever_sent == REQUESTS[:1]


async def test_publishes_that_are_answered_or_given_up_are_not_waited_for() -> None:
    link = ScriptedLink()
    connection = over(link)
    publishes = [Publish("n", str(number), "", "", None) for number in range(3)]
    await connection.wait_published()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            with Exchanges[Publish](latch_type()) as exchanges:
                Deadlines().add(0, exchanges)
                await exchanges.send(connection, publishes)
                tasks.start_soon(connection.wait_published)
                await anyio.wait_all_tasks_blocked()
                link.answer(DONE)
                link.answer(LOST)
                await exchanges.answers()
    await connection.wait_published()


async def test_what_is_repeated_anyway_is_not_waited_for() -> None:
    connection = over(ScriptedLink())
    with scope() as exchanges, anyio.fail_after(5):
        await exchanges.send(connection, REQUESTS)
        await connection.wait_published()


async def test_what_is_sent_when_it_is_late_is_given_up_at_once() -> None:
    link = ScriptedLink()
    with scope() as exchanges, anyio.fail_after(5):
        exchanges.expire()
        assert await exchanges.answers() == []
        await exchanges.send(over(link), REQUESTS[:1])
        assert isinstance(results(await exchanges.answers())["0"], EnSyncTimeoutError)
        assert link.calls == []


async def test_an_answer_that_comes_with_the_deadline_counts() -> None:
    link = ScriptedLink()
    with scope() as exchanges, anyio.fail_after(5):
        await exchanges.send(over(link), REQUESTS[:1])
        exchanges.expire()
        link.answer(DONE)
        assert results(await exchanges.answers()) == {"0": DONE}


async def test_leaving_gives_up_what_is_not_answered() -> None:
    link = ScriptedLink()
    with scope() as exchanges:
        await exchanges.send(over(link), REQUESTS)
        link.answer(DONE)
    assert link.calls == []


async def test_who_is_cancelled_hears_of_that_and_not_of_the_loss_it_has_caused() -> None:
    link = ScriptedLink()
    with scope() as exchanges, anyio.CancelScope() as cancelled:
        await exchanges.send(over(link), REQUESTS[:1])
        link.answer(LOST)
        cancelled.cancel()
        await exchanges.answers()
    assert cancelled.cancelled_caught


async def test_who_is_cancelled_in_the_moment_of_the_deadline_hears_of_that() -> None:
    with scope() as exchanges, anyio.CancelScope() as cancelled:
        await exchanges.send(over(ScriptedLink()), REQUESTS[:1])
        exchanges.expire()
        cancelled.cancel()
        await exchanges.answers()
    assert cancelled.cancelled_caught
