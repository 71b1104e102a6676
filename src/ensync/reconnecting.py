"""When to try again and when to give up: decisions on links and streams, without any waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ensync.errors import EnSyncAuthenticationError, EnSyncError
from ensync.options import Backoff, Reconnect

__all__ = ["Decision", "GiveUp", "ReconnectDecisions", "TryAfter"]


@dataclass(frozen=True, slots=True)
class TryAfter:
    """Try again after this many seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop; this is why."""

    error: EnSyncError


Decision = TryAfter | GiveUp


class ReconnectDecisions:
    """Fed with what happens and when; answers what to do next."""

    def __init__(self, policy: Reconnect, random: Callable[[], float]) -> None:
        self._policy = policy
        # The waits grow over short-lived connections too; giving up is for failures in a row.
        self._backoff = Backoff(replace(policy, max_attempts=None), random)
        self._failures = 0
        self._is_trying = False
        self._connected_at: float | None = None

    @property
    def failures(self) -> int:
        """How many attempts in a row have come to nothing."""
        return self._failures

    def connected(self, now: float) -> None:
        """An attempt got through. Whether it was worth something shows when it is over."""
        self._connected_at = now

    def lost(self, error: EnSyncError, now: float, *, useful: bool) -> Decision:
        """A connection that had been made is gone.

        The back-off starts over only if it had lived for a while: an engine that
        accepts and drops at once is not hammered. One that does so without having
        been of any use is an attempt that failed, or there would be no end to it. So
        is one that broke the protocol, whatever came before: the engine will do it
        again, with what it sends again.
        """
        lived = 0.0 if self._connected_at is None else now - self._connected_at
        if lived >= self._policy.healthy_after:
            self._backoff.reset()
            self._failures = 0
        elif useful and error.code != "protocol_error":
            self._failures = 0
        elif self._is_trying:
            self._failures += 1
        self._connected_at, self._is_trying = None, True
        return self._decide(error)

    def failed(self, error: EnSyncError) -> Decision:
        """An attempt to connect did not succeed."""
        self._failures += 1
        return self._decide(error)

    def _decide(self, error: EnSyncError) -> Decision:
        limit = self._policy.max_attempts
        if limit is not None and self._failures >= limit:
            return GiveUp(_gave_up(error, self._failures))
        return self._next(error)

    def _next(self, error: EnSyncError) -> Decision:
        if isinstance(error, EnSyncAuthenticationError):
            return GiveUp(error)
        delay = self._backoff.next_delay()
        assert delay is not None
        return TryAfter(delay)


def _gave_up(last: EnSyncError, attempts: int) -> EnSyncError:
    error = type(last)(
        f"gave up after {attempts} attempts; the last failure: {last}",
        code="gave_up",
        event_name=last.event_name,
        retryable=False,
    )
    error.__cause__ = last
    return error
