"""Publishing: an event becomes one sealed request per recipient, each with its outcome."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from typing import Literal, NamedTuple, TypeAlias, cast

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from ensync.connection import Answer
from ensync.crypto import parse_app_id, seal, seal_hybrid
from ensync.errors import (
    EnSyncConnectionError,
    EnSyncError,
    EnSyncPublishError,
    EnSyncTimeoutError,
    EnSyncValidationError,
)
from ensync.event import OutgoingEvent, PublishOutcome, Receipt
from ensync.options import check_choice
from ensync.payload import check_event_name, encode_metadata, encode_payload
from ensync.received import make_received
from ensync.scopes import background_tasks, single_error_bare
from ensync.session import Session
from ensync.transports.base import Outcome, Publish

__all__ = ["Encryption", "prepare", "publish_all", "publish_many"]

Encryption: TypeAlias = Literal["sealed", "hybrid"]


def prepare(
    event_name: str,
    recipients: Sequence[str],
    payload: object,
    metadata: Mapping[str, object] | None,
    encryption: str,
) -> list[Publish]:
    """Checks, encodes and encrypts: one request for each recipient.

    Raises:
        EnSyncValidationError: Something can't be sent; the message says what.
    """
    check_event_name(event_name)
    app_ids = _check_recipients(recipients)
    check_choice("encryption", encryption, ("sealed", "hybrid"))
    text, payload_metadata = encode_payload(payload)
    metadata_text = encode_metadata(metadata)
    hybrid = seal_hybrid(text, app_ids) if encryption == "hybrid" else None
    return [
        Publish(event_name, app_id, hybrid or seal(text, app_id), metadata_text, payload_metadata)
        for app_id in app_ids
    ]


def _check_recipients(recipients: object) -> list[str]:
    if isinstance(recipients, str | bytes) or not isinstance(recipients, Iterable):
        raise EnSyncValidationError(
            f"recipients must be a list of app ids, not {type(recipients).__name__}"
        )
    app_ids = list(dict.fromkeys(cast("Iterable[str]", recipients)))
    if not app_ids:
        raise EnSyncValidationError("recipients must name at least one app id, and is empty")
    for app_id in app_ids:
        parse_app_id(app_id)
    return app_ids


class Accepted(NamedTuple):
    event_id: str


class Rejected(NamedTuple):
    error: EnSyncError


class Unknown(NamedTuple):
    error: EnSyncError


RecipientOutcome: TypeAlias = Accepted | Rejected | Unknown


async def publish_all(session: Session, requests: list[Publish], timeout: float) -> Receipt:
    """Sends all requests at once and waits for their outcomes.

    Raises:
        EnSyncPublishError: Not every recipient's copy was accepted.
    """
    deadline = anyio.current_time() + timeout
    outcomes: dict[str, RecipientOutcome] = {}

    async def publish(request: Publish) -> None:
        outcomes[request.recipient] = await _publish(session, request, deadline)

    if len(requests) == 1:
        await publish(requests[0])
    else:
        async with single_error_bare(), anyio.create_task_group() as tasks:
            for request in requests:
                tasks.start_soon(publish, request)
    ordered = {request.recipient: outcomes[request.recipient] for request in requests}
    return _receipt(requests[0].event_name, ordered)


async def _publish(session: Session, request: Publish, deadline: float) -> RecipientOutcome:
    while True:
        try:
            connection = await session.connection(deadline)
        except EnSyncConnectionError as error:
            return Rejected(error)
        answer = await session.exchange(connection, request, deadline)
        outcome = _judge(answer)
        if outcome is not None:
            return outcome
        if isinstance(answer.result, Outcome):
            session.unknown_to_engine(answer.result.message)


def _judge(answer: Answer) -> RecipientOutcome | None:
    """What an answer means; None when the request was certainly not sent and may be again."""
    result, sent = answer
    if isinstance(result, Outcome):
        if result.success:
            return Accepted(result.idem)
        if result.unauthenticated:
            return None
        return Rejected(_refusal(result.message))
    if sent:
        return Unknown(result)
    if isinstance(result, EnSyncTimeoutError) or not isinstance(result, EnSyncConnectionError):
        return Rejected(result)
    return None


def _refusal(message: str) -> EnSyncError:
    return EnSyncError(
        f"the engine refused the event: {message or 'no reason given'}", code="publish_refused"
    )


def _receipt(event_name: str, outcomes: Mapping[str, RecipientOutcome]) -> Receipt:
    accepted = {r: o.event_id for r, o in outcomes.items() if isinstance(o, Accepted)}
    if len(accepted) == len(outcomes):
        return make_received(Receipt, event_name, accepted)
    rejected = {r: o.error for r, o in outcomes.items() if isinstance(o, Rejected)}
    unknown = {r: o.error for r, o in outcomes.items() if isinstance(o, Unknown)}
    failures = [*rejected.values(), *unknown.values()]
    error = EnSyncPublishError(
        f"{event_name!r} was accepted for {len(accepted)}, rejected for {len(rejected)} and "
        f"unknown for {len(unknown)} of {len(outcomes)} recipients: {failures[0]}",
        accepted=accepted,
        rejected=rejected,
        unknown=unknown,
        event_name=event_name,
        retryable=not unknown and all(failure.retryable for failure in failures),
    )
    raise error from failures[0]


OutgoingEvents: TypeAlias = Iterable[OutgoingEvent] | AsyncIterable[OutgoingEvent]


@asynccontextmanager
async def publish_many(
    session: Session, events: OutgoingEvents, max_in_flight: int, timeout: float
) -> AsyncIterator[AsyncIterator[PublishOutcome]]:
    """A scope in which events are published, a bounded number at a time."""
    taking = anyio.Lock()
    results, outcomes = anyio.create_memory_object_stream[PublishOutcome](max_in_flight)

    async def work(out: MemoryObjectSendStream[PublishOutcome]) -> None:
        async with out:
            while True:
                async with taking:
                    event = await anext(source, None)
                if event is None:
                    return
                await out.send(await _outcome(session, event, timeout))

    async with (
        aclosing(_as_async_generator(events)) as source,
        outcomes,
        background_tasks() as tasks,
    ):
        with results:
            for _ in range(max_in_flight):
                tasks.start_soon(work, results.clone(), name="ensync publish_many")
        yield outcomes


def _as_async_generator(events: OutgoingEvents) -> AsyncGenerator[OutgoingEvent, None]:
    # A generator of the user's is closed with the scope: nobody else could do it in time.
    return events if isinstance(events, AsyncGenerator) else _asynchronously(events)


async def _asynchronously(events: OutgoingEvents) -> AsyncGenerator[OutgoingEvent, None]:
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event


async def _outcome(session: Session, event: OutgoingEvent, timeout: float) -> PublishOutcome:
    try:
        requests = prepare(
            event.event_name, event.recipients, event.payload, event.metadata, event.encryption
        )
        receipt = await publish_all(session, requests, timeout)
    except EnSyncError as error:
        return PublishOutcome(event, None, error)
    return PublishOutcome(event, receipt, None)
