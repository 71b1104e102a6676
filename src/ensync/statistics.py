"""Counts that a user can look at."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SubscriptionStatistics"]


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """Counts since the subscription was entered.

    Attributes:
        received: Deliveries that arrived, duplicates included.
        duplicates: Deliveries not handed out because the event was here already,
            or was settled.
        invalid: Events that could not be decrypted or parsed.
        buffered: Events waiting for a loop now.
        in_hand: Events handed out and not settled now.
        unconfirmed: Acknowledgements that the engine has not confirmed yet.
        acknowledged: Acknowledgements that the engine has confirmed.
        deferred: Events deferred.
        discarded: Events discarded.
        refused: Acknowledgements, and deferrals and discards after a failure, that the
            engine refused.
        failed_handlers: Exceptions raised by handlers of ``for_each``.
    """

    received: int
    duplicates: int
    invalid: int
    buffered: int
    in_hand: int
    unconfirmed: int
    acknowledged: int
    deferred: int
    discarded: int
    refused: int
    failed_handlers: int
