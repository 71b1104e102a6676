"""One client's session with the engine: connect, serve, lose, back off, give up.

A supervisor task keeps one authenticated link up. Whatever the client wants of the
engine goes through here, so that a request made while the link is down waits for
the next one, and a subscription outlives the link that it was made on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import anyio

from ensync.acknowledgements import AcknowledgementPipeline
from ensync.connection import Answer, ClientState, Connection, SessionSettings
from ensync.deadlines import Deadlines
from ensync.draining import Draining
from ensync.errors import (
    EnSyncConnectionError,
    EnSyncError,
    EnSyncTimeoutError,
)
from ensync.exchanges import Exchanges
from ensync.heartbeats import Heartbeats
from ensync.options import Backoff, Reconnect
from ensync.reconnecting import ReconnectDecisions, TryAfter
from ensync.registry import SubscriptionRegistry
from ensync.scopes import background_tasks
from ensync.telling import tell
from ensync.transports.base import (
    Identity,
    Link,
    LostCallback,
    Outcome,
    ReplyCallback,
    Request,
)
from ensync.transports.bridge import (
    AsyncioSide,
    current_clock,
    current_task_finder,
    latch_type,
    let_interrupts_wait,
)

__all__ = ["Session", "waited"]

logger = logging.getLogger("ensync")

# Acknowledgements go first on a new link, so that their events are not handed out
# again; an engine that is slow to confirm does not hold the subscriptions up longer.
_ACKNOWLEDGE_FIRST = 2.0
# Seconds for publishes that are still under way on a link that is left, but not broken.
_LAST_ANSWERS = 1.0


class Session:
    """Made by the engine for each client. :meth:`open` first, then :meth:`run` as a task."""

    def __init__(
        self,
        side: AsyncioSide,
        open_link: Callable[[LostCallback], Awaitable[Link]],
        app_key: str,
        settings: SessionSettings,
        random: Callable[[], float],
    ) -> None:
        self.side = side
        self._open_link = open_link
        self._app_key = app_key
        self._random = random
        self.settings = settings
        self._connection: Connection | None = None
        self._final_error: EnSyncError | None = None
        self._state = ClientState.CONNECTING
        self._changed = anyio.Event()
        # That of the event loop, which anyio.Event() would look up each time.
        self.make_event = type(self._changed)
        self._make_latch = latch_type()
        self.current_task = current_task_finder()
        self.clock = current_clock()
        self._deadlines = Deadlines()
        self._decisions = self._new_decisions()
        self.reconnects = 0
        self.subscriptions = SubscriptionRegistry(self, self._new_decisions)
        self.identity = Identity("", "", {})
        self.acknowledgements = AcknowledgementPipeline(
            timeout=settings.request_timeout, clock=self.clock
        )
        let_interrupts_wait(AcknowledgementPipeline.add, AcknowledgementPipeline.abandon)
        self._draining = Draining(settings.drain_timeout, lambda: self.acknowledgements.answered)

    def __repr__(self) -> str:
        return (
            f"<Session {self._state} failures={self._decisions.failures} "
            f"subscriptions={self.subscriptions.names} "
            f"unconfirmed={self.acknowledgements.unconfirmed}>"
        )

    def _new_decisions(self) -> ReconnectDecisions:
        return ReconnectDecisions(self.settings.reconnect, self._random)

    # State

    @property
    def state(self) -> ClientState:
        return self._state

    @property
    def current(self) -> Connection | None:
        """The connection, if there is one now."""
        return self._connection

    @property
    def changed(self) -> anyio.Event:
        """Set, and replaced, at each change of state."""
        return self._changed

    def _set_state(self, state: ClientState) -> None:
        self._state = state
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    # Connecting

    async def open(self) -> None:
        """Connects and authenticates once.

        Raises:
            EnSyncAuthenticationError: The engine refuses the app key.
            EnSyncConnectionError: It can't be reached within the connect timeout.
        """
        self._begin(await self._connect())

    async def _connect(self) -> Connection:
        connection = Connection()
        timeout = self.settings.connect_timeout
        with anyio.move_on_after(timeout):
            await self.side.run(self._establish, connection)
            return connection
        raise EnSyncTimeoutError(
            f"no connection to the engine within {timeout:g} s", code="connect_timeout"
        )

    async def _establish(self, connection: Connection) -> None:
        link = await self._open_link(connection.lose)
        try:
            connection.identity = await link.authenticate(self._app_key)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await link.aclose()
            raise
        connection.link = link

    def _begin(self, connection: Connection) -> None:
        assert connection.identity is not None
        self.identity = connection.identity
        link = type(connection.live_link)
        let_interrupts_wait(link.send, link.beat)
        self._connection = connection
        self._decisions.connected(anyio.current_time())
        self._draining.has_new_link()
        self.acknowledgements.attach(connection)
        self._set_state(ClientState.CONNECTED)

    # The supervisor

    async def run(self) -> None:
        """Keeps the session up until it is cancelled or has to give up."""
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(self._deadlines.run, name="ensync deadlines")
                while self._connection is not None:
                    connection = self._connection
                    error = await self._serve(connection)
                    await self._retire(connection)
                    await self._reconnect(error, useful=connection.was_useful)
        finally:
            await self._close()

    async def _serve(self, connection: Connection) -> EnSyncConnectionError:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._beat, connection, name="ensync heartbeats")
            tasks.start_soon(self._resend_late, name="ensync acknowledgements")
            tasks.start_soon(self._restore, connection, name="ensync subscriptions")
            await connection.wait_lost()
            tasks.cancel_scope.cancel()
        return await connection.wait_lost()

    async def _retire(self, connection: Connection) -> None:
        self._connection = None
        self.acknowledgements.detach()
        self.subscriptions.detached()
        self._set_state(ClientState.RECONNECTING)
        try:
            # An engine that does not know this client says so to each of its requests. Only then
            # is it certain that it has done nothing about a publish; all else is repeated anyway.
            with anyio.move_on_after(_LAST_ANSWERS):
                await connection.wait_published()
        finally:
            await self._close_link(connection)

    async def _close_link(self, connection: Connection) -> None:
        with anyio.CancelScope(shield=True):
            await self.side.run(connection.live_link.aclose)

    async def _reconnect(self, error: EnSyncConnectionError, *, useful: bool) -> None:
        level = logging.WARNING if error.code == "protocol_error" else logging.INFO
        logger.log(level, "connection lost: %s", error)
        decision = self._decisions.lost(error, anyio.current_time(), useful=useful)
        while isinstance(decision, TryAfter):
            await anyio.sleep(decision.delay)
            try:
                connection = await self._connect()
            except EnSyncConnectionError as failure:
                logger.info("attempt to reconnect failed: %s", failure)
                decision = self._decisions.failed(failure)
            else:
                self.reconnects += 1
                self._begin(connection)
                return
        logger.error("giving up: %s", decision.error)
        self._finish(decision.error)

    def _finish(self, error: EnSyncError) -> None:
        self._final_error = error
        self.acknowledgements.close()
        self.subscriptions.failed(error)
        self._set_state(ClientState.CLOSED)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if self._final_error is None:
            self._finish(EnSyncConnectionError("the client was closed", code="closed"))
        if connection is not None:
            await self._close_link(connection)

    async def _restore(self, connection: Connection) -> None:
        with anyio.move_on_after(_ACKNOWLEDGE_FIRST):
            await self.acknowledgements.wait_until_all_confirmed()
        await self.subscriptions.keep(connection)

    async def _beat(self, connection: Connection) -> None:
        settings = self.settings
        heartbeats = Heartbeats(
            connection.live_link,
            interval=settings.heartbeat_interval,
            timeout=settings.heartbeat_timeout,
            answered=connection.heartbeat_answered,
        )
        await heartbeats.run()

    async def _resend_late(self) -> None:
        while True:
            await anyio.sleep(min(1.0, self.settings.request_timeout / 4))
            self.acknowledgements.expire(anyio.current_time())
            self.subscriptions.retry()

    def draining(self) -> AbstractContextManager[None]:
        """A scope in which a subscription waits for the engine as it is left."""
        connection = self._connection
        return self._draining.bounded(has_link=connection is not None and not connection.is_lost)

    # Requests

    async def connection(self, deadline: float) -> Connection:
        """The connection, waiting for one while reconnecting.

        Raises:
            EnSyncTimeoutError: There was none by the deadline.
            EnSyncConnectionError: There will be none.
        """
        connection = self._connection
        if connection is not None and not connection.is_lost:
            return connection
        with anyio.CancelScope(deadline=deadline):
            while True:
                if self._final_error is not None:
                    raise self._copy_of_final_error()
                if self._connection is not None and not self._connection.is_lost:
                    return self._connection
                await self._changed.wait()
        raise EnSyncTimeoutError("not connected to the engine, and not again in time")

    def _copy_of_final_error(self) -> EnSyncError:
        # One exception raised in many tasks would collect all their tracebacks.
        final = self._final_error
        assert final is not None
        error = type(final)(str(final), code=final.code, retryable=final.retryable)
        error.__cause__ = final.__cause__
        return error

    async def exchange(self, connection: Connection, request: Request, deadline: float) -> Answer:
        """Sends a request once and waits for its answer, until the deadline."""
        with self.exchanges(deadline) as exchanges:
            await exchanges.send(connection, [request])
            (exchange,) = await exchanges.answers()
        return exchange.answer

    def exchanges(self, deadline: float) -> Exchanges[Any]:
        """A scope for several requests with the same deadline."""
        exchanges: Exchanges[Any] = Exchanges(self._make_latch)
        self._deadlines.add(deadline, exchanges)
        return exchanges

    def tell(self, connection: Connection, request: Request, on_answer: ReplyCallback) -> None:
        """Sends a request once, without waiting; its deadline is that of all requests."""
        at = self.clock() + self.settings.request_timeout
        connection.asked(request)
        tell(connection.live_link, request, on_answer, deadlines=self._deadlines, at=at)

    def pauses(self) -> Backoff:
        """The pauses between tries of one request while the connection stays."""
        return Backoff(Reconnect(initial=0.05, maximum=1.0, max_attempts=None), self._random)

    async def request(
        self,
        request: Request,
        find: Callable[[float], Awaitable[Connection]] | None = None,
        deadline: float | None = None,
    ) -> Outcome:
        """Sends a request that may safely be repeated until it is answered.

        Args:
            request: What to send.
            find: Waits, until a deadline, for the connection to use. By default any will do.
            deadline: When to stop trying; when the request timeout is over, by default.

        Raises:
            EnSyncTimeoutError: No answer by the deadline.
            EnSyncConnectionError: The session has ended.
        """
        find = self.connection if find is None else find
        if deadline is None:
            deadline = anyio.current_time() + self.settings.request_timeout
        pauses = self.pauses()
        perhaps_done = False
        while True:
            connection = await find(deadline)
            result, sent = await self.exchange(connection, request, deadline)
            if isinstance(result, Outcome):
                if not result.unauthenticated:
                    return result._replace(perhaps_repeated=perhaps_done)
                continue
            if isinstance(result, EnSyncTimeoutError) or not _may_repeat(result):
                raise result
            perhaps_done = perhaps_done or sent
            if not connection.is_lost and not await waited(pauses, deadline):
                raise result


async def waited(pauses: Backoff, deadline: float) -> bool:
    """Waits before a request is repeated; False, at once, if the deadline comes first."""
    delay = pauses.next_delay() or 0
    if anyio.current_time() + delay >= deadline:
        return False
    await anyio.sleep(delay)
    return True


def _may_repeat(error: EnSyncError) -> bool:
    return isinstance(error, EnSyncConnectionError) and error.retryable
