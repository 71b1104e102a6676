"""When a client tries again and when it gives up, without any waiting."""

from __future__ import annotations

import pytest

from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncError,
    EnSyncSubscriptionError,
)
from ensync.options import Reconnect
from ensync.reconnecting import GiveUp, ReconnectDecisions, TryAfter

LOST = EnSyncConnectionError("the link was lost")


def decisions(random: float = 1.0, **policy: float | None) -> ReconnectDecisions:
    return ReconnectDecisions(Reconnect(**policy), lambda: random)  # type: ignore[arg-type]


def delay_of(decision: object) -> float:
    assert isinstance(decision, TryAfter)
    return decision.delay


def test_100_refusals_wait_as_stated() -> None:
    ours = decisions(max_attempts=None)
    ours.connected(0)
    delays = [delay_of(ours.lost(LOST, 1))]
    delays += [delay_of(ours.failed(LOST)) for _ in range(99)]
    assert delays == [min(30.0, 0.5 * 2**n) for n in range(100)]


@pytest.mark.parametrize("random", [0.0, 0.25, 0.999])
def test_the_jitter_is_full(random: float) -> None:
    ours = decisions(random)
    assert [delay_of(ours.failed(LOST)) for _ in range(3)] == [
        random * 0.5,
        random * 1.0,
        random * 2.0,
    ]


def test_it_gives_up_with_the_last_failure_as_the_cause() -> None:
    ours = decisions(max_attempts=2)
    assert isinstance(ours.lost(LOST, 0), TryAfter)
    assert isinstance(ours.failed(LOST), TryAfter)
    last = EnSyncConnectionError("nobody listens")
    decision = ours.failed(last)
    assert isinstance(decision, GiveUp)
    assert decision.error.__cause__ is last
    assert decision.error.code == "gave_up"
    assert not decision.error.retryable
    assert "2" in str(decision.error)
    assert "nobody listens" in str(decision.error)


def test_a_refused_key_stops_at_once() -> None:
    refused = EnSyncAuthenticationError("the engine refuses the key")
    for decision in (decisions().failed(refused), decisions().lost(refused, 0)):
        assert decision == GiveUp(refused)


def test_it_starts_over_only_after_a_healthy_while() -> None:
    ours = decisions(max_attempts=None, healthy_after=60)
    for _ in range(4):
        ours.failed(LOST)
    ours.connected(1000)
    assert delay_of(ours.lost(LOST, 1059.9)) == 0.5 * 2**4
    ours.connected(2000)
    assert delay_of(ours.lost(LOST, 2060)) == 0.5


def test_an_engine_that_breaks_the_protocol_again_and_again_is_given_up() -> None:
    breach = EnSyncConnectionError("it sent garbage", code="protocol_error")
    ours = decisions(max_attempts=2, healthy_after=60)
    for now in (1, 2):
        ours.connected(now)
        assert isinstance(ours.lost(breach, now), TryAfter)
    ours.connected(3)
    assert isinstance(ours.lost(breach, 3), GiveUp)


@pytest.mark.parametrize(("lived", "error"), [(60, None), (1, LOST)], ids=["healthy", "other"])
def test_breaches_count_in_a_row(lived: float, error: EnSyncError | None) -> None:
    breach = EnSyncConnectionError("it sent garbage", code="protocol_error")
    ours = decisions(max_attempts=1, healthy_after=60)
    for now in range(0, 1000, 100):
        ours.connected(now)
        assert isinstance(ours.lost(breach, now + lived), TryAfter)
        if error is not None:
            ours.connected(now)
            ours.lost(error, now)


@pytest.mark.parametrize("error", [LOST, EnSyncSubscriptionError("the stream ended")])
def test_the_error_keeps_its_kind(error: EnSyncError) -> None:
    ours = decisions(max_attempts=1)
    ours.failed(error)
    decision = ours.failed(error)
    assert isinstance(decision, GiveUp)
    assert type(decision.error) is type(error)
