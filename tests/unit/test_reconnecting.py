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
    delays = [delay_of(ours.lost(LOST, 1, useful=True))]
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
    assert isinstance(ours.lost(LOST, 0, useful=True), TryAfter)
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
    for decision in (decisions().failed(refused), decisions().lost(refused, 0, useful=True)):
        assert decision == GiveUp(refused)


def test_it_starts_over_only_after_a_healthy_while() -> None:
    ours = decisions(max_attempts=None, healthy_after=60)
    for _ in range(4):
        ours.failed(LOST)
    ours.connected(1000)
    assert delay_of(ours.lost(LOST, 1059.9, useful=True)) == 0.5 * 2**4
    ours.connected(2000)
    assert delay_of(ours.lost(LOST, 2060, useful=True)) == 0.5


@pytest.mark.parametrize("error", [LOST, EnSyncSubscriptionError("the stream ended")])
def test_the_error_keeps_its_kind(error: EnSyncError) -> None:
    ours = decisions(max_attempts=1)
    ours.failed(error)
    decision = ours.failed(error)
    assert isinstance(decision, GiveUp)
    assert type(decision.error) is type(error)


BREACH = EnSyncConnectionError("what it sent makes no sense", code="protocol_error")


def attempts_until_it_gives_up(
    ours: ReconnectDecisions, error: EnSyncError, *, useful: bool, lives: float = 1
) -> int | None:
    """How many connections are made, after the first one, that are all lost so."""
    now = 0.0
    for attempts in range(100):
        ours.connected(now)
        now += lives
        decision = ours.lost(error, now, useful=useful)
        if isinstance(decision, GiveUp):
            assert f"after {attempts} attempts" in str(decision.error)
            assert decision.error.__cause__ is error
            return attempts
    return None


def test_an_engine_that_accepts_and_drops_at_once_is_given_up() -> None:
    assert attempts_until_it_gives_up(decisions(max_attempts=3), LOST, useful=False) == 3
    assert attempts_until_it_gives_up(decisions(max_attempts=None), LOST, useful=False) is None


def test_as_long_as_something_gets_through_it_goes_on() -> None:
    assert attempts_until_it_gives_up(decisions(max_attempts=3), LOST, useful=True) is None


def test_as_long_as_it_is_healthy_it_goes_on() -> None:
    ours = decisions(max_attempts=3, healthy_after=60)
    assert attempts_until_it_gives_up(ours, LOST, useful=False, lives=60) is None
    ours = decisions(max_attempts=3, healthy_after=60)
    assert attempts_until_it_gives_up(ours, BREACH, useful=True, lives=60) is None


@pytest.mark.parametrize("useful", [False, True])
def test_an_engine_that_breaks_the_protocol_each_time_is_given_up(useful: bool) -> None:
    assert attempts_until_it_gives_up(decisions(max_attempts=3), BREACH, useful=useful) == 3


def test_connections_that_fail_and_connections_that_come_to_nothing_count_together() -> None:
    ours = decisions(max_attempts=3)
    ours.lost(LOST, 0, useful=True)
    ours.failed(LOST)
    ours.connected(1)
    ours.lost(LOST, 2, useful=False)
    assert ours.failures == 2
    assert isinstance(ours.failed(LOST), GiveUp)
