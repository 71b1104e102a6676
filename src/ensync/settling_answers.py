"""What an engine's answer to an acknowledgement, a deferral or a discard says (PROTOCOL 3)."""

from __future__ import annotations

from collections.abc import Mapping

from ensync.ledger import Place
from ensync.transports.base import Acknowledge, Defer, Discard, Outcome, Request

__all__ = ["is_settled", "means_done", "place_of_settled"]

_SETTLED_WORDS = ("already", "duplicate", "acknowledged")

# How engines speak of each kind of settling.
_VERBS: Mapping[type[Request], str] = {
    Acknowledge: "acknowledg",
    Defer: "defer",
    Discard: "discard",
}


def means_done(outcome: Outcome) -> bool:
    """Whether an answer to an acknowledgement says that the event is settled (PROTOCOL 3)."""
    if outcome.success:
        return True
    text = outcome.message.lower()
    return any(word in text for word in _SETTLED_WORDS)


def is_settled(request: Request, outcome: Outcome) -> bool:
    """Whether an answer says that an event is settled in the way that was asked for."""
    if outcome.success:
        return True
    # "Already" may speak of another way in which the event was settled before. If not, an
    # acknowledgement is done; what else was asked for is if it was asked for before.
    text = outcome.message.lower()
    if any(verb in text for kind, verb in _VERBS.items() if not isinstance(request, kind)):
        return False
    return means_done(outcome) and (outcome.perhaps_repeated or isinstance(request, Acknowledge))


def place_of_settled(outcome: Outcome) -> Place | None:
    """What became of an event that the engine says was settled before, in another way."""
    if not means_done(outcome):
        return None
    text = outcome.message.lower()
    if _VERBS[Defer] in text:
        return Place.GIVEN_BACK
    return Place.DISCARDED if _VERBS[Discard] in text else Place.ACKNOWLEDGED
