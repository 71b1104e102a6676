"""Requests that are under way together, with one deadline for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from anyio.lowlevel import checkpoint_if_cancelled

from ensync.connection import Answer, Connection
from ensync.deadlines import Deadline
from ensync.errors import EnSyncError
from ensync.telling import no_answer_in_time
from ensync.transports.base import Call, Outcome, Request
from ensync.transports.bridge import Latch

__all__ = ["Exchange", "Exchanges"]

R = TypeVar("R", bound=Request)


class Exchange(Generic[R]):
    """A request that was sent once, over one connection.

    Attributes:
        connection: Which.
        request: What was asked.
        answer: What came of it, as soon as it is over.
    """

    __slots__ = ("answer", "connection", "request", "result", "scope")

    answer: Answer

    def __init__(self, scope: Exchanges[R], connection: Connection, request: R) -> None:
        self.scope = scope
        self.connection = connection
        self.request = request
        self.result: Outcome | EnSyncError | None = None

    def answered(self, result: Outcome | EnSyncError) -> None:
        """The link has an answer."""
        self.result = result
        self.scope.answered(self, result)


class Exchanges(Deadline, Generic[R]):
    """A scope for requests, each of which is sent once. One task sends them and waits.

    Args:
        make_latch: Makes what that task waits with.

    Attributes:
        is_late: Whether the deadline is over. What is sent then is not waited for.
    """

    __slots__ = (
        "_has_failed",
        "_is_due",
        "_latch",
        "_make_latch",
        "_over",
        "_under_way",
        "is_late",
    )

    def __init__(self, make_latch: Callable[[], Latch]) -> None:
        self._make_latch = make_latch
        self._latch: Latch | None = None
        self._under_way: dict[Exchange[R], Call] = {}
        self._over: list[Exchange[R]] = []
        self._is_due = False
        self.is_late = False
        self._has_failed = False

    def __enter__(self) -> Exchanges[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        if self._under_way:
            self._give_up()

    async def send(self, connection: Connection, requests: Iterable[R]) -> None:
        """Sends requests, together as far as the connection can.

        Whoever is cancelled already sends nothing: it may leave at once.
        """
        await checkpoint_if_cancelled()
        link = connection.live_link
        for request in requests:
            exchange = Exchange(self, connection, request)
            connection.asked(request)
            call = link.send(request, exchange.answered)
            if exchange.result is None:
                self._under_way[exchange] = call
            else:
                self._end(exchange, exchange.result, call)

    def answered(self, exchange: Exchange[R], result: Outcome | EnSyncError) -> None:
        """An exchange has its answer; perhaps before its call is known, or when it was given up."""
        call = self._under_way.pop(exchange, None)
        if call is not None:
            self._end(exchange, result, call)

    def _end(self, exchange: Exchange[R], result: Outcome | EnSyncError, call: Call) -> None:
        exchange.answer = Answer(result, call.sent)
        exchange.connection.concluded(exchange.request)
        self._over.append(exchange)
        if isinstance(result, Outcome):
            exchange.connection.answered(exchange.request, result)
            if self._under_way:
                return
        else:
            self._has_failed = True
        self._wake()

    def expire(self) -> None:
        """The deadline is there: whoever waits goes on with what there is."""
        self.is_late = True
        self._wake()

    def _wake(self) -> None:
        self._is_due = True
        if self._latch is not None:
            self._latch.set()

    async def answers(self) -> Sequence[Exchange[R]]:
        """Waits for the next that are over; each is given once.

        It waits until all are, or one has come to nothing, so that it can be sent again without
        waiting for the others. At the deadline, what is not answered is given up.
        """
        if not self._is_due and not self.is_late:
            self._latch = self._make_latch()
            await self._latch.wait()
        self._is_due = False
        if self.is_late:
            self._give_up()
            self._has_failed = True
        over, self._over = self._over, []
        if self._has_failed:
            self._has_failed = False
            # Who is cancelled hears of that, and not of what came of it: another request that was
            # cancelled together with this one may have cost both their link.
            await checkpoint_if_cancelled()
        return over

    def _give_up(self) -> None:
        # All are taken out first: giving one up may cost the others their link. And the last is
        # the first to go: each that goes may make room for one that has waited for it.
        given_up, self._under_way = self._under_way, {}
        for exchange, call in reversed(given_up.items()):
            exchange.answer = Answer(no_answer_in_time(), call.sent)
            call.cancel()
            exchange.connection.concluded(exchange.request)
        self._over.extend(given_up)
