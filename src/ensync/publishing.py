"""Publishing: an event becomes one sealed request per recipient, each with its outcome."""

from __future__ import annotations

from collections.abc import (
    Iterable,
    Mapping,
    Sequence,
)
from typing import Literal, NamedTuple, TypeAlias, cast

from ensync.connection import Answer
from ensync.crypto import parse_app_id, seal, seal_hybrid
from ensync.errors import (
    EnSyncConnectionError,
    EnSyncError,
    EnSyncPublishError,
    EnSyncTimeoutError,
    EnSyncValidationError,
)
from ensync.event import Receipt
from ensync.exchanges import Exchange, Exchanges
from ensync.options import Backoff, check_choice
from ensync.payload import check_event_name, encode_metadata, encode_payload
from ensync.received import make_received
from ensync.session import Session, waited
from ensync.transports.base import Outcome, Publish

__all__ = ["Encryption", "prepare", "publish_all"]

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
    if type(recipients) is not list and not _may_be_recipients(recipients):
        raise EnSyncValidationError(
            f"recipients must be a list of app ids, not {type(recipients).__name__}"
        )
    app_ids = list(cast("Iterable[str]", recipients))
    if not app_ids:
        raise EnSyncValidationError("recipients must name at least one app id, and is empty")
    for app_id in app_ids:
        parse_app_id(app_id)
    return list(dict.fromkeys(app_ids))


def _may_be_recipients(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


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
    deadline = session.clock() + timeout
    outcomes: dict[str, RecipientOutcome] = {}
    pauses: Backoff | None = None
    unsent: Sequence[Publish] = requests
    scope: Exchanges[Publish] = session.exchanges(deadline)
    with scope as exchanges:
        while len(outcomes) < len(requests):
            if unsent:
                outcomes.update(await _send(session, exchanges, unsent, deadline))
                unsent = ()
                continue
            undone = _note(await exchanges.answers(), outcomes)
            if not undone:
                continue
            pauses = pauses or session.pauses()
            are_lost = all(exchange.connection.is_lost for exchange in undone)
            in_time = are_lost or await waited(pauses, deadline)
            if in_time and not exchanges.is_late:
                unsent = [exchange.request for exchange in undone]
            else:
                outcomes.update(_not_done(undone))
    ordered = {request.recipient: outcomes[request.recipient] for request in requests}
    return _receipt(requests[0].event_name, ordered)


async def _send(
    session: Session, exchanges: Exchanges[Publish], requests: Sequence[Publish], deadline: float
) -> Mapping[str, Rejected]:
    """Sends requests; they are rejected where there is no connection for them in time."""
    try:
        connection = await session.connection(deadline)
    except EnSyncConnectionError as error:
        return {request.recipient: Rejected(error) for request in requests}
    await exchanges.send(connection, requests)
    return {}


def _note(
    over: Iterable[Exchange[Publish]], outcomes: dict[str, RecipientOutcome]
) -> Sequence[Exchange[Publish]]:
    """Notes what came of requests; those that the engine has certainly not done are left."""
    undone: list[Exchange[Publish]] = []
    for exchange in over:
        outcome = _judge(exchange.answer)
        if outcome is None:
            undone.append(exchange)
        else:
            outcomes[exchange.request.recipient] = outcome
    return undone


def _not_done(exchanges: Iterable[Exchange[Publish]]) -> Mapping[str, Rejected]:
    reasons = {exchange.request.recipient: exchange.answer.result for exchange in exchanges}
    return {
        recipient: Rejected(_refusal(reason.message) if isinstance(reason, Outcome) else reason)
        for recipient, reason in reasons.items()
    }


def _judge(answer: Answer) -> RecipientOutcome | None:
    """What an answer means; None when the engine has certainly done nothing about it."""
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
