"""Publishing many events, a bounded number at a time, in a scope."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TypeAlias, cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ensync.errors import EnSyncError, EnSyncValidationError
from ensync.event import OutgoingEvent, PublishOutcome
from ensync.publishing import prepare, publish_all
from ensync.scopes import background_tasks
from ensync.session import Session

__all__ = ["OutgoingEvents", "publish_many"]

OutgoingEvents: TypeAlias = Iterable[OutgoingEvent] | AsyncIterable[OutgoingEvent]


class Outcomes:
    """The outcomes, as they come; several at a time without a turn of the loop for each."""

    def __init__(self, outcomes: MemoryObjectReceiveStream[PublishOutcome]) -> None:
        self._outcomes = outcomes

    def __aiter__(self) -> Outcomes:
        return self

    async def __anext__(self) -> PublishOutcome:
        # First: an outcome that is taken and not returned would be lost.
        await checkpoint_if_cancelled()
        try:
            return self._outcomes.receive_nowait()
        except anyio.WouldBlock:
            return await self._outcomes.__anext__()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


@asynccontextmanager
async def publish_many(
    session: Session, events: OutgoingEvents, max_in_flight: int, timeout: float
) -> AsyncIterator[AsyncIterator[PublishOutcome]]:
    """A scope in which events are published; it gives their outcomes."""
    source = _Source(events)
    results, outcomes = anyio.create_memory_object_stream[PublishOutcome](max_in_flight)

    workers = 0

    def start_worker(out: MemoryObjectSendStream[PublishOutcome]) -> None:
        nonlocal workers
        workers += 1
        tasks.start_soon(work, out, name="ensync publish_many")

    async def work(out: MemoryObjectSendStream[PublishOutcome]) -> None:
        with out:
            async for event in source:
                # One more for the next event, if there is one.
                if workers < max_in_flight:
                    start_worker(out.clone())
                await _hand_over(out, await _outcome(session, event, timeout))

    async with source, outcomes, background_tasks() as tasks:
        start_worker(results)
        yield Outcomes(outcomes)


async def _hand_over(out: MemoryObjectSendStream[PublishOutcome], outcome: PublishOutcome) -> None:
    try:
        out.send_nowait(outcome)
    except anyio.WouldBlock:
        await out.send(outcome)


async def _outcome(session: Session, event: OutgoingEvent, timeout: float) -> PublishOutcome:
    try:
        _check_event(event)
        requests = prepare(
            event.event_name, event.recipients, event.payload, event.metadata, event.encryption
        )
        receipt = await publish_all(session, requests, timeout)
    except EnSyncError as error:
        return PublishOutcome(event, None, error)
    return PublishOutcome(event, receipt, None)


def _check_event(event: object) -> None:
    if not isinstance(event, OutgoingEvent):
        raise EnSyncValidationError(
            f"publish_many() takes OutgoingEvent(...) objects, not {type(event).__name__}"
        )


class _Source:
    """The user's events, for several tasks to draw from."""

    def __init__(self, events: OutgoingEvents) -> None:
        self._events: AsyncIterator[OutgoingEvent] | None = None
        self._plain_events = iter(()) if isinstance(events, AsyncIterable) else iter(events)
        if isinstance(events, AsyncIterable):
            self._events = aiter(events)
        self._drawing = anyio.Lock()

    def __aiter__(self) -> _Source:
        return self

    async def __anext__(self) -> OutgoingEvent:
        if self._events is None:
            for event in self._plain_events:
                return event
            raise StopAsyncIteration
        async with self._drawing:
            return await anext(self._events)

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        # A generator of the user's is closed with the scope: nobody else could do it in time.
        events: object = self._events
        if isinstance(events, AsyncGenerator):
            await cast("AsyncGenerator[OutgoingEvent, None]", events).aclose()
