"""What engines say to a request to settle an event that is settled already."""

from __future__ import annotations

import pytest

from ensync.ledger import Place
from ensync.settling_answers import is_settled, means_done, place_of_settled
from ensync.transports.base import Acknowledge, Defer, Discard, Outcome, Request

ACKNOWLEDGE, DEFER, DISCARD = (
    Acknowledge("n", "i", 0),
    Defer("n", "i", 0, ""),
    Discard("n", "i", ""),
)
ANY: list[Request] = [ACKNOWLEDGE, DEFER, DISCARD]


@pytest.mark.parametrize(
    ("message", "done"),
    [("already settled", True), ("Duplicate", True), ("was acknowledged", True), ("no", False)],
)
def test_what_means_done(message: str, done: bool) -> None:
    assert means_done(Outcome(False, message)) is done
    assert means_done(Outcome(True, message))


@pytest.mark.parametrize("request_", ANY)
@pytest.mark.parametrize("message", ["", "already discarded"])
def test_success_is_success_whatever_is_said(request_: Request, message: str) -> None:
    assert is_settled(request_, Outcome(True, message))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ACKNOWLEDGE, "already acknowledged"),
        (DEFER, "already deferred"),
        (DISCARD, "already discarded"),
        (DISCARD, "already settled"),
    ],
)
def test_what_was_asked_for_before_is_done(request_: Request, message: str) -> None:
    assert is_settled(request_, Outcome(False, message, perhaps_repeated=True))


def test_only_an_acknowledgement_is_done_by_somebody_else_too() -> None:
    already = Outcome(False, "already settled")
    assert [is_settled(request, already) for request in ANY] == [True, False, False]


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    ("request_", "message", "place"),
    [
        (ACKNOWLEDGE, "already discarded", Place.DISCARDED),
        (ACKNOWLEDGE, "already deferred", Place.GIVEN_BACK),
        (DISCARD, "already acknowledged", Place.ACKNOWLEDGED),
        (DEFER, "already discarded", Place.DISCARDED),
    ],
)
def test_settled_in_another_way(
    request_: Request, message: str, place: Place, repeated: bool
) -> None:
    outcome = Outcome(False, message, perhaps_repeated=repeated)
    assert not is_settled(request_, outcome)
    assert place_of_settled(outcome) is place


def test_a_refusal_says_nothing_of_a_place() -> None:
    assert place_of_settled(Outcome(False, "no such event")) is None
